//! Builds the configuration of the embedded server: the user's `server_config` first, then our
//! keys. Pure.
//!
//! nats-server uses the last of two equal keys, and replaces whole blocks. So a block of the user
//! that needs our additions (`jetstream`, `cluster`) is written again, with the user's text inside.

use super::EmbeddedError;
use super::neighbours::{self, Neighbours};
use super::user_config::Keys;
use crate::model::ids::NodeId;
use crate::settings::{ClusterSettings, NatsSettings, ReplicationLogSettings, Secret, Settings};
use std::fmt::Write;
use std::path::{Path, PathBuf};

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
        let offers_tls = exposed && !nats.cert_file.is_empty() && !user.any(&["tls"]);
        if offers_tls {
            _ = writeln!(tail, "tls {{ {} }}", neighbours::certificate(nats));
        }
        let beside = Neighbours { cluster, nats, user };
        tail += &beside.routes(&mut warnings, settings.replication_log.replicas)?;
        tail += &beside.leafnodes();
        let any_port = listen.as_ref().is_some_and(|(_, port)| *port == 0);
        let tls = offers_tls || user.any(&["tls"]);
        Ok(Self { store, login, any_port, tls, warnings, listen, head, tail })
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

pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns an include path. nats-server joins even absolute ones to the directory of the including
/// file, so the path climbs to the root first.
fn from_root(dir: &Path, target: &Path) -> String {
    let up = "../".repeat(dir.components().count().saturating_sub(1));
    format!("{up}{}", target.to_string_lossy().trim_start_matches('/'))
}

/// Quotes a text for nats-server.
pub(super) fn quote(text: &str) -> String {
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
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn plan(
        settings: &Settings,
        cluster: &ClusterSettings,
        user: &str,
    ) -> Plan {
        Plan::new(settings, NodeId(7), cluster, &Keys::of(user), Secret::new("made")).unwrap()
    }

    pub(in super::super) fn bound(address: &str) -> Settings {
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
}
