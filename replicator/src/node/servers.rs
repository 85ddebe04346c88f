//! Counts the NATS servers that are up, while JetStream does not answer: without a majority it
//! stores and delivers nothing.
//!
//! Arrives: the servers of the configuration, and the state of the connection. Leaves: how many are
//! up, for status and health. Owns: nothing is asked while JetStream answers, because each look is
//! a line in the log of the other server. Memory only.

use super::report::StatusSources;
use crate::clock;
use crate::settings::{ClusterSettings, Settings};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// The time between two looks.
const INTERVAL: Duration = Duration::from_secs(3);
/// A server that cannot be reached within this time is down.
const GREETING: Duration = Duration::from_secs(2);
/// The greatest size of a greeting.
const GREETING_BYTES_MAX: u64 = 64 << 10;
/// JetStream counts as silent if the last answer is older: two looks of the registry went by.
const SILENT_MS: u64 = 11_000;

/// How many servers are up; `all` is 0 if it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ServersUp {
    pub(super) up: usize,
    pub(super) all: usize,
}

impl ServersUp {
    /// Returns why nothing is stored, if a majority is not up.
    pub(super) fn no_majority(self) -> Option<String> {
        let Self { up, all } = self;
        (all > 1 && up * 2 <= all).then(|| {
            format!(
                "no majority of the NATS servers: {up} of {all} servers up, so JetStream stores \
                and delivers nothing; changes wait until {} are up",
                all / 2 + 1
            )
        })
    }
}

/// The servers to look at.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    /// `host:port`, without the embedded server of this node.
    others: Vec<String>,
    /// The name of this node's embedded server, which is up.
    own: Option<String>,
}

impl Servers {
    /// Takes them from the configuration. A port may be missing, as in `nats.urls`.
    pub(super) fn new(settings: &Settings, cluster: &ClusterSettings, node: u64) -> Self {
        let (list, port, own) = match settings.nats.urls.is_empty() {
            true => (&cluster.peers, 6222, Some(format!("harmonylite-node-{node}"))),
            false => (&settings.nats.urls, 4222, None),
        };
        Self { others: list.iter().filter_map(|url| host_port(url, port)).collect(), own }
    }

    async fn look(&self) -> ServersUp {
        let names = self.others.iter().map(|at| {
            let at = at.clone();
            tokio::spawn(async move { name_at(&at).await })
        });
        let mut count = ServersUp { up: 0, all: self.others.len() };
        if self.own.is_some() {
            (count.up, count.all) = (1, count.all + 1);
        }
        for name in futures_util::future::join_all(names).await {
            let name = name.ok().flatten();
            if name.is_some() && name == self.own {
                // The list names this node's own server too.
                count.all -= 1;
            } else if name.is_some() {
                count.up += 1;
            }
        }
        count
    }
}

fn host_port(url: &str, port: u16) -> Option<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit('@').next()?.split(['/', '?']).next()?;
    let has_port = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(if has_port { rest.to_owned() } else { format!("{rest}:{port}") })
}

/// Returns the name with which a server greets; an empty one if it greets in another way (TLS
/// first). None: it is not there.
async fn name_at(address: &str) -> Option<String> {
    let stream = tokio::time::timeout(GREETING, TcpStream::connect(address)).await.ok()?.ok()?;
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(GREETING_BYTES_MAX));
    // Without a greeting the line stays empty.
    let _ = tokio::time::timeout(GREETING, reader.read_line(&mut line)).await;
    let greeting = line.strip_prefix("INFO ").unwrap_or_default();
    let info: serde_json::Value = serde_json::from_str(greeting).unwrap_or_default();
    Some(info["server_name"].as_str().unwrap_or_default().to_owned())
}

/// Looks while JetStream does not answer, until the receivers are gone.
pub(super) async fn watch_servers(
    servers: Servers,
    sources: Arc<StatusSources>,
    seen: watch::Sender<ServersUp>,
) {
    let started_ms = clock::mono_ms();
    while !servers.others.is_empty() && !seen.is_closed() {
        let answered_ms = sources.registry.borrow().read_ms.max(started_ms);
        let is_silent = clock::mono_ms().saturating_sub(answered_ms) > SILENT_MS;
        let is_away = sources.link.borrow().failed_attempts > 0;
        let count = if is_silent || is_away { servers.look().await } else { ServersUp::default() };
        seen.send_if_modified(|before| std::mem::replace(before, count) != count);
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[test]
    fn addresses_are_read_from_urls() {
        for (url, address) in [
            ("nats://10.0.0.2:6222", "10.0.0.2:6222"),
            ("nats://user:p:w@host:4222/", "host:4222"),
            ("host", "host:6222"),
            ("tls://[::1]", "[::1]:6222"),
            ("dns://a.example:1/x?y", "a.example:1"),
        ] {
            assert_eq!(host_port(url, 6222).unwrap(), address);
        }
    }

    #[test]
    fn a_minority_is_a_reason() {
        let reason = |up, all| ServersUp { up, all }.no_majority();
        assert!(reason(1, 3).unwrap().contains("1 of 3 servers up"));
        assert!(reason(1, 2).is_some() && reason(0, 3).is_some() && reason(2, 5).is_some());
        assert!(reason(2, 3).is_none() && reason(0, 1).is_none() && reason(0, 0).is_none());
    }

    #[tokio::test]
    async fn servers_that_greet_are_up_and_the_own_one_counts_once() {
        let serve = async |name: &'static str| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let text = format!("INFO {{\"server_name\":\"{name}\"}}\r\n");
                stream.write_all(text.as_bytes()).await.unwrap();
            });
            address
        };
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let peers = vec![
            format!("nats://{}", serve("harmonylite-node-1").await),
            format!("nats://u:p@{}", serve("harmonylite-node-2").await),
            closed.to_string(),
        ];
        let cluster = ClusterSettings { peers, ..ClusterSettings::default() };
        let servers = Servers::new(&Settings::default(), &cluster, 1);
        assert_eq!(servers.look().await, ServersUp { up: 2, all: 3 });
    }
}
