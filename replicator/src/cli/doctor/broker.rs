//! Checks the broker's configuration for availability and for safety of data.

use super::report::{Level, Report};
use crate::settings::{ClusterSettings, Settings};

/// A majority of two servers is two, so one may be down only with three or more.
const SERVERS_MIN: usize = 3;

/// Adds the findings.
pub(super) fn check(settings: &Settings, cluster: &ClusterSettings, report: &mut Report) {
    let replicas = settings.replication_log.replicas;
    let mut warn = |text: String, hint: &str| report.add(Level::Warning, "broker", text, hint);
    let clustered = cluster.addr.is_some() || !cluster.peers.is_empty();
    if !settings.nats.urls.is_empty() {
        if clustered || !cluster.leaf_servers.is_empty() {
            warn(
                "-cluster-addr, -cluster-peers and -leaf-servers configure the embedded server; \
                nats.urls turns that off"
                    .to_owned(),
                "remove one of the two",
            );
        }
        if settings.nats.urls.len() >= SERVERS_MIN && replicas < SERVERS_MIN {
            warn(
                format!(
                    "replication_log.replicas = {replicas} with several servers: each stream is \
                    lost with one server"
                ),
                "set replication_log.replicas = 3",
            );
        }
        return;
    }
    // The list of peers often includes this server.
    let servers = if clustered {
        (cluster.peers.len() + usize::from(!lists_itself(cluster))).max(1)
    } else {
        1
    };
    if clustered && servers < SERVERS_MIN {
        warn(
            format!(
                "this node knows {servers} servers of the embedded cluster: with two, both must \
                run for anything to be published"
            ),
            "run three nodes or more, or use one external nats-server; until then changes wait on \
            their node, nothing is lost",
        );
    }
    if clustered && replicas < SERVERS_MIN {
        warn(
            format!(
                "replication_log.replicas = {replicas} in a cluster: each stream is lost with one \
                server"
            ),
            "set replication_log.replicas = 3 on every node",
        );
    }
    if !clustered && cluster.leaf_servers.is_empty() {
        if replicas > 1 {
            warn(
                format!(
                    "replication_log.replicas = {replicas}, but the embedded server has no \
                    cluster and keeps one copy"
                ),
                "use -cluster-addr and -cluster-peers, or replicas = 1",
            );
        }
        let text = "no nats.urls and no cluster: this node runs an embedded server of its own";
        report.add(
            Level::Note,
            "broker",
            text,
            "other nodes connect to it through nats.urls (with nats.bind_address set here), or \
            through -cluster-addr and -cluster-peers",
        );
    }
}

fn lists_itself(cluster: &ClusterSettings) -> bool {
    let Some(own) = &cluster.addr else { return false };
    cluster
        .peers
        .iter()
        .any(|peer| peer.rsplit("//").next().map(|p| p.trim_end_matches('/')) == Some(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(change: impl Fn(&mut Settings), addr: Option<&str>, peers: &[&str]) -> String {
        let mut settings = Settings::default();
        change(&mut settings);
        let peers = peers.iter().map(|p| (*p).to_owned()).collect();
        let mut report = Report::default();
        check(
            &settings,
            &ClusterSettings { addr: addr.map(str::to_owned), peers, leaf_servers: vec![] },
            &mut report,
        );
        report.text()
    }

    #[test]
    fn two_servers_and_few_replicas_are_warned_of() {
        let three =
            text(|s| s.replication_log.replicas = 3, Some("a:1"), &["nats://b:1", "nats://c:1"]);
        assert!(!three.contains("WARNING"), "{three}");
        let whole_list =
            text(|s| s.replication_log.replicas = 3, Some("a:1"), &["nats://a:1/", "nats://b:1"]);
        assert!(whole_list.contains("knows 2 servers"), "{whole_list}");
        assert!(text(|_| {}, Some("a:1"), &["b", "c"]).contains("is lost with one server"));
        assert!(text(|s| s.replication_log.replicas = 3, None, &[]).contains("one copy"));
        assert!(text(|_| {}, None, &[]).contains("an embedded server of its own"));
        assert!(
            text(|s| s.nats.urls = vec!["a".into()], Some("x:1"), &[]).contains("turns that off")
        );
        assert!(
            text(|s| s.nats.urls = vec!["a".into(), "b".into(), "c".into()], None, &[])
                .contains("is lost with one server")
        );
    }
}
