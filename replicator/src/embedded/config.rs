//! Builds the configuration of the embedded server: the user's `server_config` first, then our
//! keys. Pure.
//!
//! nats-server uses the last of two equal keys, and replaces whole blocks. So a block of the user
//! that needs our additions (`jetstream`, `cluster`) is written again, with the user's text inside.

use super::EmbeddedError;
use super::user_config::Keys;
use crate::model::ids::NodeId;
use crate::settings::{ClusterSettings, NatsSettings, ReplicationLogSettings, Secret, Settings};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The name of every cluster of embedded servers, as in HarmonyLite (Go).
const CLUSTER_NAME: &str = "e-harmonylite";

/// The configuration of the server, except for the port of a restart.
#[derive(Debug)]
pub(super) struct Plan {
    /// The directory of JetStream's files, and of our lock, configuration and ports file.
    pub(super) store: PathBuf,
    /// The login of our own client.
    pub(super) login: Option<(String, Secret)>,
    /// Whether any port will do, so that a restart may request the former one.
    pub(super) any_port: bool,
    /// Whether our client has to use TLS.
    pub(super) tls: bool,
    /// Warnings about this configuration, for people.
    pub(super) warnings: Vec<String>,
    listen: Option<(String, u16)>,
    head: String,
    tail: String,
}

/// With one of these keys in the user's file no login is created.
const ACCESS_KEYS: [&str; 8] = [
    "authorization",
    "accounts",
    "operator",
    "operators",
    "resolver",
    "trusted_keys",
    "trusted",
    "no_auth_user",
];
/// The least storage limit of JetStream.
const STORAGE_BYTES_MIN: u64 = 1 << 30;
const STORAGE_BYTES_MAX: u64 = 1 << 50;
const LISTEN_KEYS: [&str; 4] = ["listen", "port", "host", "net"];

impl Plan {
    /// Builds the plan. `made` is a new password, used if no other is configured.
    pub(super) fn new(
        settings: &Settings,
        node: NodeId,
        cluster: &ClusterSettings,
        user: &Keys,
        made: Secret,
    ) -> Result<Self, EmbeddedError> {
        let nats = &settings.nats;
        let name = format!("harmonylite-node-{node}");
        let store_default =
            absolute(&settings.db_path).parent().unwrap_or(Path::new("/")).join("nats").join(&name);
        let leaf = !cluster.leaf_servers.is_empty();
        let (jetstream, store) =
            jetstream(user, leaf, &store_default, storage_bytes(&settings.replication_log));
        let mut warnings = Vec::new();

        let (listen, exposed) = listen(nats, user)?;
        let named = (!nats.user_name.is_empty())
            .then(|| (nats.user_name.clone(), nats.user_password.clone()));
        let ours = !user.any(&ACCESS_KEYS);
        let login = named.or_else(|| (ours && !exposed).then(|| ("harmonylite".to_owned(), made)));
        if ours && login.is_none() {
            warnings.push(
                "the embedded nats-server accepts connections from everywhere without a password: \
                set \
                nats.user_name and nats.user_password, or \
                 accounts in nats.server_config"
                    .to_owned(),
            );
        }

        let mut head = String::from(
            "# Written by harmonylite at every start: changes are lost. Use nats.server_config \
            for yours.\n",
        );
        if !nats.server_config.is_empty() {
            _ = writeln!(
                head,
                "include {}",
                quote(&from_root(&store, &absolute(Path::new(&nats.server_config))))
            );
        }
        _ = writeln!(head, "server_name: {}", quote(&name));
        _ = writeln!(head, "ports_file_dir: {}", quote(&store.to_string_lossy()));
        _ = writeln!(head, "logtime: false");
        // Log an unreachable neighbour once a minute, not four times a second.
        _ = writeln!(head, "reconnect_error_reports: 60");
        let mut tail = jetstream;
        if let (true, Some((user, password))) = (ours, &login) {
            _ = writeln!(
                tail,
                "authorization {{ user: {}, password: {} }}",
                quote(user),
                quote(password.reveal())
            );
        }
        tail += &routes(cluster, user, &mut warnings, settings.replication_log.replicas)?;
        tail += &leafnodes(cluster, nats, user);
        let any_port = listen.as_ref().is_some_and(|(_, port)| *port == 0);
        Ok(Self { store, login, any_port, tls: user.any(&["tls"]), warnings, listen, head, tail })
    }

    /// Returns the text, with this port if any port will do.
    pub(super) fn text(&self, port: Option<u16>) -> String {
        let listen = self.listen.as_ref().map(|(host, fixed)| match (fixed, port) {
            (0, None | Some(0)) => format!("listen: {}\n", quote(&format!("{host}:-1"))),
            (0, Some(port)) | (&port, _) => {
                format!("listen: {}\n", quote(&format!("{host}:{port}")))
            }
        });
        format!("{}{}{}", self.head, listen.unwrap_or_default(), self.tail)
    }
}

/// The address for clients (port 0: any; None: the user's file decides), and whether other machines
/// may connect.
fn listen(
    nats: &NatsSettings,
    user: &Keys,
) -> Result<(Option<(String, u16)>, bool), EmbeddedError> {
    if user.any(&LISTEN_KEYS) {
        return Ok((None, true));
    }
    let bad = || EmbeddedError::BadAddress {
        what: "nats.bind_address",
        value: nats.bind_address.clone(),
        example: "127.0.0.1:4222 or :-1",
    };
    let address = if nats.bind_address.is_empty() { ":-1" } else { &nats.bind_address };
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let port = if port == "-1" { 0 } else { port.parse::<u16>().map_err(|_| bad())? };
    let loopback = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    Ok(match (host, port) {
        ("", 0) => (Some(("127.0.0.1".to_owned(), 0)), false),
        // As in HarmonyLite (Go): a configured port is open to other machines.
        ("", port) => (Some(("0.0.0.0".to_owned(), port)), true),
        (host, port) => (Some((host.to_owned(), port)), port != 0 || !loopback),
    })
}

/// Returns the `jetstream` block and the directory of its files.
fn jetstream(user: &Keys, leaf: bool, store_default: &Path, bytes: u64) -> (String, PathBuf) {
    let given = ["store_dir", "storedir"]
        .iter()
        .find_map(|key| user.value(key).map(str::to_owned))
        .or_else(|| user.within("jetstream", &["store_dir", "storedir", "store"]));
    // Only nats-server can resolve a variable of the user's file: our own files stay in the usual
    // place.
    let store = given
        .as_deref()
        .filter(|dir| !dir.starts_with('$'))
        .map_or(store_default.to_owned(), |dir| absolute(Path::new(dir)));
    let off = user.value("jetstream").is_some_and(|value| {
        matches!(value.to_lowercase().as_str(), "disabled" | "disable" | "false")
    });
    let block = user.block("jetstream");
    if off || leaf && !user.any(&["jetstream"]) {
        return (if leaf { through_leaves(user) } else { String::new() }, store);
    }
    let hub = user.any(&["leafnodes", "leaf"]) && user.within("jetstream", &["domain"]).is_none();
    let mut text = if hub { through_leaves(user) } else { String::new() };
    text += "jetstream {\n";
    if let Some(inner) = block {
        _ = writeln!(text, "{}", inner.trim_matches('\n'));
    }
    if given.is_none() {
        _ = writeln!(text, "  store_dir: {}", quote(&store.to_string_lossy()));
    }
    // The default is three quarters of the free space at the start, which stays small if the disk
    // was full then.
    if user.within("jetstream", &["max_file_store", "max_file"]).is_none() {
        _ = writeln!(text, "  max_file_store: {bytes}");
    }
    text += "  sync_interval: always\n}\n";
    (text, store)
}

/// The storage for the streams, and the same again for snapshots and the user's own streams.
fn storage_bytes(log: &ReplicationLogSettings) -> u64 {
    u64::try_from(log.max_bytes).map_or(STORAGE_BYTES_MAX, |bytes| {
        bytes.saturating_mul(2 * u64::from(log.shards)).clamp(STORAGE_BYTES_MIN, STORAGE_BYTES_MAX)
    })
}

/// Lets JetStream requests pass leaf connections. Without it a leaf server keeps its clients'
/// `$JS.API.>` to itself, with or without JetStream, and a hub does not announce the queue
/// subscriptions that answer direct gets to its leaves. The user's setting wins.
fn through_leaves(user: &Keys) -> String {
    if user.any(&["default_js_domain"]) {
        String::new()
    } else {
        "default_js_domain: { \"$G\": \"\" }\n".to_owned()
    }
}

/// The `cluster` block for `-cluster-addr`.
fn routes(
    cluster: &ClusterSettings,
    user: &Keys,
    warnings: &mut Vec<String>,
    replicas: usize,
) -> Result<String, EmbeddedError> {
    let Some(addr) = cluster.addr.as_deref().filter(|addr| !addr.is_empty()) else {
        if !cluster.peers.is_empty() {
            warnings.push("-cluster-peers has no effect without -cluster-addr".to_owned());
        }
        return Ok(user.block("cluster").map_or(String::new(), |inner| cluster_block("", inner)));
    };
    let bad = || EmbeddedError::BadAddress {
        what: "-cluster-addr",
        value: addr.to_owned(),
        example: "10.0.0.1:6222",
    };
    let (host, port) = addr.rsplit_once(':').ok_or_else(bad)?;
    port.parse::<u16>().map_err(|_| bad())?;
    let listen = if host.is_empty() { format!("0.0.0.0:{port}") } else { addr.to_owned() };
    let mut peers: Vec<String> =
        cluster.peers.iter().map(|peer| with_scheme(peer, "nats")).collect();
    let others = peers
        .iter()
        .filter(|peer| {
            !peer.ends_with(&format!("@{addr}")) && !peer.ends_with(&format!("//{addr}"))
        })
        .count();
    if others < 2 {
        warnings.push(format!(
            "this cluster has {} nodes: it stops while one of them is down; it needs three to \
            continue",
            others + 1
        ));
    }
    if replicas < 3 {
        warnings.push(format!(
            "replication_log.replicas = {replicas} in a cluster: a stream is lost with one \
            server; with 3 it survives one"
        ));
    }
    // JetStream refuses a cluster without any route, so a first node names itself.
    if peers.is_empty() && user.within("cluster", &["routes"]).is_none() {
        peers.push(with_scheme(if host.is_empty() { &listen } else { addr }, "nats"));
    }
    let mut ours = format!("  listen: {}\n", quote(&listen));
    // The routes carry a login: require it from the others too.
    if let Some((name, password)) = peers.iter().find_map(|peer| userinfo(peer)) {
        _ = writeln!(
            ours,
            "  authorization {{ user: {}, password: {} }}",
            quote(name),
            quote(password)
        );
    }
    if !peers.is_empty() {
        _ = writeln!(
            ours,
            "  routes: [{}]",
            peers.iter().map(|peer| quote(peer)).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(cluster_block(&ours, user.block("cluster").unwrap_or_default()))
}

fn cluster_block(ours: &str, inner: &str) -> String {
    // The name comes first, so that the user's own wins.
    format!("cluster {{\n  name: {CLUSTER_NAME}\n{}\n{ours}}}\n", inner.trim_matches('\n'))
}

/// The `leafnodes` block for `-leaf-servers`: one remote with all addresses, so that the server can
/// switch between them.
fn leafnodes(cluster: &ClusterSettings, nats: &NatsSettings, user: &Keys) -> String {
    if cluster.leaf_servers.is_empty() {
        return String::new();
    }
    let urls: Vec<String> =
        cluster.leaf_servers.iter().map(|url| quote(&with_scheme(url, "nats-leaf"))).collect();
    let mut remote = format!("urls: [{}]", urls.join(", "));
    let file = |path: &str| quote(&absolute(Path::new(path)).to_string_lossy());
    if !nats.creds_file.is_empty() {
        _ = write!(remote, ", credentials: {}", file(&nats.creds_file));
    } else if !nats.seed_file.is_empty() {
        _ = write!(remote, ", nkey: {}", file(&nats.seed_file));
    }
    if !nats.ca_file.is_empty() {
        _ = write!(remote, ", tls {{ ca_file: {}", file(&nats.ca_file));
        if !nats.cert_file.is_empty() {
            _ = write!(
                remote,
                ", cert_file: {}, key_file: {}",
                file(&nats.cert_file),
                file(&nats.key_file)
            );
        }
        remote += " }";
    }
    let inner = user.block("leafnodes").unwrap_or_default();
    format!("leafnodes {{\n{}\n  remotes: [ {{ {remote} }} ]\n}}\n", inner.trim_matches('\n'))
}

/// Adds a scheme. HarmonyLite (Go) resolves `dns://` itself; nats-server resolves every host name.
fn with_scheme(url: &str, scheme: &str) -> String {
    let url = url.trim().trim_end_matches('/');
    match url.split_once("://") {
        Some(("dns", rest)) => {
            format!("{scheme}://{}", rest.split(['/', '?']).next().unwrap_or(rest))
        }
        Some(_) => url.to_owned(),
        None => format!("{scheme}://{url}"),
    }
}

fn userinfo(url: &str) -> Option<(&str, &str)> {
    url.split_once("://")?.1.rsplit_once('@')?.0.split_once(':')
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns an include path. nats-server joins even absolute ones to the directory of the including
/// file, so the path climbs to the root first.
fn from_root(dir: &Path, target: &Path) -> String {
    let up = "../".repeat(dir.components().count().saturating_sub(1));
    format!("{up}{}", target.to_string_lossy().trim_start_matches('/'))
}

/// Quotes a text for nats-server.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted += "\\\"",
            '\\' => quoted += "\\\\",
            '\n' => quoted += "\\n",
            '\r' => quoted += "\\r",
            '\t' => quoted += "\\t",
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(settings: &Settings, cluster: &ClusterSettings, user: &str) -> Plan {
        Plan::new(settings, NodeId(7), cluster, &Keys::of(user), Secret::new("made")).unwrap()
    }

    fn bound(address: &str) -> Settings {
        let mut settings = Settings { db_path: "/data/app.db".into(), ..Settings::default() };
        settings.nats.bind_address = address.to_owned();
        settings
    }

    #[test]
    fn an_address_of_the_users_choice_is_served_as_written_and_any_port_on_loopback_only() {
        let alone = ClusterSettings::default();
        for (address, listen, exposed) in [
            (":-1", "127.0.0.1:-1", false),
            (":0", "127.0.0.1:-1", false),
            ("localhost:-1", "localhost:-1", false),
            (":4222", "0.0.0.0:4222", true),
            ("0.0.0.0:4222", "0.0.0.0:4222", true),
            ("[::1]:4222", "[::1]:4222", true),
            ("node:-1", "node:-1", true),
        ] {
            let plan = plan(&bound(address), &alone, "");
            let text = plan.text(None);
            assert!(text.contains(&format!("listen: \"{listen}\"\n")), "{address}: {text}");
            assert_eq!(plan.login.is_none(), exposed, "{address}");
            assert_eq!(plan.warnings.len(), usize::from(exposed), "{address}");
            assert_eq!(
                text.contains("authorization { user: \"harmonylite\", password: \"made\" }"),
                !exposed
            );
        }
        assert!(plan(&bound(":-1"), &alone, "").text(Some(4300)).contains("127.0.0.1:4300"));
        assert!(plan(&bound(":4222"), &alone, "").text(Some(4300)).contains("0.0.0.0:4222"));
        for bad in ["4222", "host:port", ":99999", "host:-2"] {
            assert!(
                Plan::new(&bound(bad), NodeId(7), &alone, &Keys::default(), Secret::default())
                    .is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_users_file_comes_first_and_its_blocks_are_kept() {
        let mut settings = bound(":-1");
        settings.nats.server_config = "/etc/nats/user.conf".to_owned();
        let plan = plan(
            &settings,
            &ClusterSettings::default(),
            "jetstream { max_mem: 1G }\naccounts { A {} }",
        );
        let text = plan.text(None);
        // The generated file is in /data/nats/harmonylite-node-7.
        assert!(text.contains("include \"../../../etc/nats/user.conf\"\n"), "{text}");
        assert!(text.contains("max_mem: 1G") && text.contains("sync_interval: always"), "{text}");
        assert!(text.contains(&format!("max_file_store: {}\n", 2_u64 << 30)), "{text}");
        assert!(text.contains("store_dir: \"/data/nats/harmonylite-node-7\""), "{text}");
        assert!(
            !text.contains("authorization") && plan.login.is_none() && plan.warnings.is_empty(),
            "{text}"
        );
    }

    #[test]
    fn what_jetstream_may_store_follows_the_streams_or_the_user() {
        let mut settings = bound(":-1");
        let alone = ClusterSettings::default();
        for (max_bytes, shards, stored) in [
            (1 << 20, 1, 1 << 30),
            (1 << 30, 4, 8 << 30),
            (-1, 1, 1 << 50),
            (i64::MAX, 16, 1_u64 << 50),
        ] {
            (settings.replication_log.max_bytes, settings.replication_log.shards) =
                (max_bytes, shards);
            let text = plan(&settings, &alone, "").text(None);
            assert!(
                text.contains(&format!("max_file_store: {stored}\n")),
                "{max_bytes} in {shards}: {text}"
            );
        }
        let text = plan(&settings, &alone, "jetstream { max_file: 5G }").text(None);
        assert!(text.contains("max_file: 5G") && !text.contains("max_file_store"), "{text}");
    }

    #[test]
    fn a_cluster_says_what_it_cannot_outlive() {
        let mut cluster = ClusterSettings {
            addr: Some("10.0.0.1:6222".to_owned()),
            ..ClusterSettings::default()
        };
        cluster.peers =
            vec!["nats://u:p@10.0.0.1:6222/".to_owned(), "dns://u:p@others:6222/?min=3".to_owned()];
        let two = plan(&bound(":-1"), &cluster, "");
        let text = two.text(None);
        assert!(
            text.contains("name: e-harmonylite")
                && text.contains("authorization { user: \"u\", password: \"p\" }"),
            "{text}"
        );
        assert!(
            text.contains("routes: [\"nats://u:p@10.0.0.1:6222\", \"nats://u:p@others:6222\"]"),
            "{text}"
        );
        assert_eq!(two.warnings.len(), 2, "{:?}", two.warnings);
        cluster.peers.push("nats://u:p@10.0.0.3:6222".to_owned());
        let mut settings = bound(":-1");
        settings.replication_log.replicas = 3;
        assert!(plan(&settings, &cluster, "").warnings.is_empty());
        cluster.peers.clear();
        assert!(
            plan(&settings, &cluster, "").text(None).contains("routes: [\"nats://10.0.0.1:6222\"]")
        );
    }

    #[test]
    fn a_leaf_has_no_jetstream_of_its_own_unless_the_user_says_so() {
        let leaf = ClusterSettings {
            leaf_servers: vec!["hub:7422".to_owned()],
            ..ClusterSettings::default()
        };
        let text = plan(&bound(":-1"), &leaf, "").text(None);
        assert!(
            text.contains("remotes: [ { urls: [\"nats-leaf://hub:7422\"] } ]")
                && !text.contains("jetstream"),
            "{text}"
        );
        assert!(text.contains("default_js_domain"), "{text}");
        let text = plan(&bound(":-1"), &leaf, "jetstream { domain: edge }").text(None);
        assert!(text.contains("domain: edge") && !text.contains("default_js_domain"), "{text}");
    }
}
