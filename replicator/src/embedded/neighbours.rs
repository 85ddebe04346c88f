//! Writes the blocks of the embedded server's configuration for its neighbours: the routes of a
//! cluster, the hub of a leaf, the leaves of a hub. Pure.
//!
//! Owns: who may join. The login of `nats.user_name` is demanded from other servers and shown to
//! them, unless the URLs of the neighbours or the user's file have another. With
//! `nats.cert_file` both sides use TLS.

use super::EmbeddedError;
use super::config::{absolute, quote};
use super::user_config::Keys;
use crate::settings::{ClusterSettings, NatsSettings};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fmt::Write;
use std::path::Path;

/// The name of every cluster of embedded servers, as in HarmonyLite (Go).
const CLUSTER_NAME: &str = "e-harmonylite";

/// A user and a password.
type Login = (String, String);

/// What the blocks are made from.
pub(super) struct Neighbours<'a> {
    pub(super) cluster: &'a ClusterSettings,
    pub(super) nats: &'a NatsSettings,
    pub(super) user: &'a Keys,
}

impl Neighbours<'_> {
    /// The `cluster` block for `-cluster-addr`.
    ///
    /// # Errors
    /// The address is none; or other machines could join without a login.
    pub(super) fn routes(
        &self,
        warnings: &mut Vec<String>,
        replicas: usize,
    ) -> Result<String, EmbeddedError> {
        let (cluster, user) = (self.cluster, self.user);
        let Some(addr) = cluster.addr.as_deref().filter(|addr| !addr.is_empty()) else {
            if !cluster.peers.is_empty() {
                warnings.push("-cluster-peers has no effect without -cluster-addr".to_owned());
            }
            let block = user.block("cluster").map(|inner| cluster_block("", inner));
            return Ok(block.unwrap_or_default());
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
        warn(addr, &peers, replicas, warnings);
        // JetStream refuses a cluster without any route, so a first node names itself.
        if peers.is_empty() && user.within("cluster", &["routes"]).is_none() {
            peers.push(with_scheme(if host.is_empty() { &listen } else { addr }, "nats"));
        }
        let mut ours = format!("  listen: {}\n", quote(&listen));
        let is_users = user.within("cluster", &["authorization"]).is_some();
        let login = peers.iter().find_map(|peer| userinfo(peer)).or_else(|| self.login());
        match &login {
            Some(login) if !is_users => _ = writeln!(ours, "  {}", authorization(login)),
            Some(_) => {}
            None if is_users || is_loopback(host) => {}
            None => return Err(EmbeddedError::OpenRoutes { addr: addr.to_owned() }),
        }
        if let Some(login) = &login {
            peers = peers.iter().map(|peer| with_login(peer, login)).collect();
        }
        if !peers.is_empty() {
            let list: Vec<String> = peers.iter().map(|peer| quote(peer)).collect();
            _ = writeln!(ours, "  routes: [{}]", list.join(", "));
        }
        if !self.nats.cert_file.is_empty() && user.within("cluster", &["tls"]).is_none() {
            _ = writeln!(ours, "  tls {{ {}{} }}", certificate(self.nats), self.authority());
        }
        Ok(cluster_block(&ours, user.block("cluster").unwrap_or_default()))
    }

    /// The `leafnodes` block: for `-leaf-servers` one remote with all addresses, so that the server
    /// can switch between them; and what the user's file says of leaves that connect here, with our
    /// login and certificate if it has none.
    pub(super) fn leafnodes(&self) -> String {
        let key = if self.user.any(&["leafnodes"]) { "leafnodes" } else { "leaf" };
        let inner = self.user.block(key).unwrap_or_default();
        let mut ours = String::new();
        if !self.cluster.leaf_servers.is_empty() {
            _ = writeln!(ours, "  remotes: [ {{ {} }} ]", self.remote());
        }
        let listens = ["listen", "port"].iter().any(|k| self.user.within(key, &[k]).is_some());
        let lacks = |what: &str| listens && self.user.within(key, &[what]).is_none();
        if let Some(login) = self.login().filter(|_| lacks("authorization")) {
            _ = writeln!(ours, "  {}", authorization(&login));
        }
        if !self.nats.cert_file.is_empty() && lacks("tls") {
            _ = writeln!(ours, "  tls {{ {} }}", certificate(self.nats));
        }
        match ours.as_str() {
            "" => String::new(),
            ours => format!("leafnodes {{\n{}\n{ours}}}\n", inner.trim_matches('\n')),
        }
    }

    fn remote(&self) -> String {
        let nats = self.nats;
        let has_key = !nats.creds_file.is_empty() || !nats.seed_file.is_empty();
        let login = self.login().filter(|_| !has_key);
        let urls = self.cluster.leaf_servers.iter().map(|url| with_scheme(url, "nats-leaf"));
        let urls: Vec<String> = urls
            .map(|url| login.as_ref().map_or_else(|| url.clone(), |login| with_login(&url, login)))
            .map(|url| quote(&url))
            .collect();
        let mut remote = format!("urls: [{}]", urls.join(", "));
        if !nats.creds_file.is_empty() {
            _ = write!(remote, ", credentials: {}", file(&nats.creds_file));
        } else if !nats.seed_file.is_empty() {
            _ = write!(remote, ", nkey: {}", file(&nats.seed_file));
        }
        let mut tls = self.authority();
        if !nats.cert_file.is_empty() && !tls.is_empty() {
            _ = write!(tls, ", {}", certificate(nats));
        }
        if !tls.is_empty() {
            _ = write!(remote, ", tls {{ {} }}", tls.trim_start_matches(", "));
        }
        remote
    }

    /// The login that servers show each other, if the settings have one.
    fn login(&self) -> Option<Login> {
        let (name, password) = (&self.nats.user_name, &self.nats.user_password);
        let is_set = !name.is_empty() && !password.is_empty();
        is_set.then(|| (name.clone(), password.reveal().to_owned()))
    }

    /// The CA, after a comma; empty without one.
    fn authority(&self) -> String {
        match self.nats.ca_file.as_str() {
            "" => String::new(),
            ca => format!(", ca_file: {}", file(ca)),
        }
    }
}

/// The certificate and key, for a `tls` block.
pub(super) fn certificate(nats: &NatsSettings) -> String {
    format!("cert_file: {}, key_file: {}", file(&nats.cert_file), file(&nats.key_file))
}

fn file(path: &str) -> String {
    quote(&absolute(Path::new(path)).to_string_lossy())
}

fn authorization((name, password): &Login) -> String {
    format!("authorization {{ user: {}, password: {} }}", quote(name), quote(password))
}

/// Warns of clusters that stop or lose a stream with one server.
fn warn(addr: &str, peers: &[String], replicas: usize, warnings: &mut Vec<String>) {
    let is_other = |peer: &&String| {
        !peer.ends_with(&format!("@{addr}")) && !peer.ends_with(&format!("//{addr}"))
    };
    let others = peers.iter().filter(is_other).count();
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
}

fn cluster_block(ours: &str, inner: &str) -> String {
    // The name comes first, so that the user's own wins.
    format!("cluster {{\n  name: {CLUSTER_NAME}\n{}\n{ours}}}\n", inner.trim_matches('\n'))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
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

/// Adds a login to a URL that has none.
fn with_login(url: &str, (name, password): &Login) -> String {
    let Some((scheme, rest)) = url.split_once("://").filter(|(_, rest)| !rest.contains('@')) else {
        return url.to_owned();
    };
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    format!("{scheme}://{}:{}@{rest}", encoded(name), encoded(password))
}

/// Returns the login in a URL.
fn userinfo(url: &str) -> Option<Login> {
    let (name, password) = url.split_once("://")?.1.rsplit_once('@')?.0.split_once(':')?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some((decoded(name), decoded(password)))
}

#[cfg(test)]
mod tests {
    use super::super::config::Plan;
    use super::super::config::tests::{bound, plan};
    use super::*;
    use crate::model::ids::NodeId;
    use crate::settings::{Secret, Settings};

    fn with_password(settings: &mut Settings) {
        settings.nats.user_name = "shop".to_owned();
        settings.nats.user_password = Secret::new("p@ss\"/");
    }

    #[test]
    fn the_login_of_the_settings_is_demanded_and_shown_to_other_servers() {
        let mut settings = bound(":-1");
        with_password(&mut settings);
        let cluster = ClusterSettings {
            addr: Some("0.0.0.0:6222".to_owned()),
            peers: vec!["nats://b:6222".to_owned(), "nats://c:6222".to_owned()],
            leaf_servers: vec!["hub:7422".to_owned()],
        };
        let text = plan(&settings, &cluster, "").text(None);
        let blocks = text.split_once("cluster {").unwrap().1;
        assert!(
            blocks.contains(r#"authorization { user: "shop", password: "p@ss\"/" }"#),
            "{text}"
        );
        assert!(blocks.contains(r#""nats://shop:p%40ss%22%2F@b:6222""#), "{text}");
        assert!(blocks.contains(r#""nats-leaf://shop:p%40ss%22%2F@hub:7422""#), "{text}");
        // A login in the URLs wins, and is decoded for the other side.
        let cluster = ClusterSettings {
            peers: vec!["nats://u:a%40b@b:6222".to_owned(), "nats://c:6222".to_owned()],
            ..cluster
        };
        let text = plan(&settings, &cluster, "").text(None);
        assert!(text.contains(r#"user: "u", password: "a@b""#), "{text}");
        assert!(text.contains(r#""nats://u:a%40b@b:6222", "nats://u:a%40b@c:6222""#), "{text}");
    }

    #[test]
    fn routes_beyond_loopback_need_a_login() {
        let settings = bound(":-1");
        let made = |addr: &str, user: &str| {
            let cluster = ClusterSettings {
                addr: Some(addr.to_owned()),
                peers: vec!["nats://b:6222".to_owned()],
                ..ClusterSettings::default()
            };
            Plan::new(&settings, NodeId(7), &cluster, &Keys::of(user), Secret::new("made"))
        };
        for addr in [":6222", "0.0.0.0:6222", "10.0.0.1:6222", "[::]:6222", "node:6222"] {
            let refused = made(addr, "").unwrap_err().to_string();
            assert!(refused.contains(addr) && refused.contains("nats.user_name"), "{refused}");
        }
        for addr in ["127.0.0.1:6222", "localhost:6222", "[::1]:6222"] {
            assert!(made(addr, "").is_ok(), "{addr}");
        }
        let own = "cluster { authorization { user: a, password: b } }";
        assert!(made("0.0.0.0:6222", own).is_ok());
    }

    #[test]
    fn a_certificate_serves_clients_routes_and_leaves() {
        let mut settings = bound("0.0.0.0:4222");
        with_password(&mut settings);
        (settings.nats.cert_file, settings.nats.key_file) = ("/c.pem".into(), "/k.pem".into());
        settings.nats.ca_file = "/ca.pem".into();
        let cluster = ClusterSettings {
            addr: Some("0.0.0.0:6222".to_owned()),
            peers: vec!["nats://b:6222".to_owned()],
            leaf_servers: vec!["hub:7422".to_owned()],
        };
        let own = r#"cert_file: "/c.pem", key_file: "/k.pem""#;
        let leaf = "leafnodes { listen: \"0.0.0.0:7422\" }";
        let made = plan(&settings, &cluster, leaf);
        let text = made.text(None);
        assert!(made.tls && text.contains(&format!("\ntls {{ {own} }}\n")), "{text}");
        assert!(text.contains(&format!("  tls {{ {own}, ca_file: \"/ca.pem\" }}\n")), "{text}");
        let remote = format!(", tls {{ ca_file: \"/ca.pem\", {own} }} }} ]");
        assert!(text.contains(&remote), "{text}");
        let leaves = text.split_once("leafnodes {").unwrap().1;
        assert!(leaves.contains(&format!("  tls {{ {own} }}\n")), "{text}");
        assert!(leaves.contains("listen: \"0.0.0.0:7422\"") && leaves.contains("authorization"));
        // A server that only this node uses needs no certificate.
        settings.nats.bind_address = ":-1".to_owned();
        let made = plan(&settings, &ClusterSettings::default(), "");
        assert!(!made.tls && !made.text(None).contains("tls"));
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
        assert!(matches!(
            Plan::new(&settings, NodeId(7), &cluster, &Keys::default(), Secret::default()),
            Err(EmbeddedError::OpenRoutes { .. })
        ));
        with_password(&mut settings);
        let text = plan(&settings, &cluster, "").text(None);
        assert!(text.contains("routes: [\"nats://shop:p%40ss%22%2F@10.0.0.1:6222\"]"), "{text}");
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
