//! Checks that the node's ports are free, by opening and closing each one.

use super::super::exit::{Exit, Failure};
use super::report::Report;
use crate::db::lockfile::{Sidecar, sidecar};
use crate::settings::{ClusterSettings, Settings, bind_address, server_bind};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

/// Adds the findings. The ports of a node that runs on this database count as free.
pub(super) fn check(settings: &Settings, cluster: &ClusterSettings, report: &mut Report) {
    if matches!(sidecar(&settings.db_path), Ok(Sidecar::Running(_))) {
        return;
    }
    let mut wanted: Vec<(&str, SocketAddr)> = Vec::new();
    if settings.prometheus.enable {
        wanted.extend(bind_address(&settings.prometheus.bind).ok().map(|a| ("prometheus.bind", a)));
    }
    if settings.health_check.enable {
        wanted.extend(
            bind_address(&settings.health_check.bind).ok().map(|a| ("health_check.bind", a)),
        );
    }
    if settings.nats.urls.is_empty() {
        wanted.extend(fixed(&settings.nats.bind_address).map(|a| ("nats.bind_address", a)));
        wanted.extend(cluster.addr.as_deref().and_then(fixed).map(|a| ("-cluster-addr", a)));
    }
    for (key, address) in wanted {
        let taken = TcpListener::bind(address).map(drop);
        if let Err(error) = taken {
            let hint = match error.kind() {
                ErrorKind::AddrInUse => format!(
                    "choose another port in {key}, or stop the program that uses it: ss -ltnp \
                    'sport = :{}'",
                    address.port()
                ),
                ErrorKind::PermissionDenied => {
                    format!("ports below 1024 need privileges: choose another port in {key}")
                }
                _ => format!("choose an address of this machine in {key}"),
            };
            report.problem(
                "port",
                &Failure::new(
                    Exit::Port,
                    format!("{key}: cannot listen on {address}: {error}"),
                    hint,
                ),
            );
        }
    }
}

fn fixed(address: &str) -> Option<SocketAddr> {
    let (_, port) = server_bind(address).ok()?;
    // Port -1 is any free one.
    port.and_then(|_| bind_address(address).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_a_problem() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut settings = Settings::default();
        settings.health_check.bind = address.clone();
        let exit = |settings: &Settings, cluster: Option<&str>| {
            let mut report = Report::default();
            check(
                settings,
                &ClusterSettings { addr: cluster.map(str::to_owned), ..Default::default() },
                &mut report,
            );
            report.exit()
        };
        assert_eq!(exit(&settings, None), None, "health is off");
        settings.health_check.enable = true;
        assert_eq!(exit(&settings, None), Some(Exit::Port));
        assert_eq!(exit(&Settings::default(), Some(&address)), Some(Exit::Port));
        assert_eq!(
            exit(&Settings::default(), Some("192.0.2.1:4221")),
            Some(Exit::Port),
            "not an address of this machine"
        );
        drop(listener);
        assert_eq!(exit(&settings, None), None);
    }
}
