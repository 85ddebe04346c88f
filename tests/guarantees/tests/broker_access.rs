//! Nodes connect to a server with every supported kind of authentication, and reconnect after its
//! restart.
//!
//! Goal: user and password, nkey seed file, creds file (a server in operator mode), TLS with an own
//! CA and client certificates all work; a seed or creds file that is replaced needs no restart.
//! Method: a real nats-server is configured for each of them. The test makes the keys, JWTs and
//! certificates.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use data_encoding::BASE64URL_NOPAD;
use harmonylite_guarantees::{Authority, Node, Purpose, Server, converge, eventually, rows};
use nkeys::KeyPair;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT)";

fn node(dir: &Path, id: u64, server: &Server, settings: &str) -> Node {
    let node = Node::new(
        dir,
        id,
        &format!("[nats]\nurls = [{:?}]\nreconnect_wait_seconds = 1\n{settings}", server.url()),
    );
    node.app().execute_batch(SCHEMA).unwrap();
    node
}

fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Checks that two nodes with these settings replicate, also after the server was killed.
#[track_caller]
fn replicate(dir: &Path, server: &mut Server, settings: &str) {
    server.start();
    let (mut one, mut two) = (node(dir, 1, server, settings), node(dir, 2, server, settings));
    one.run();
    two.run();
    for round in 0..2 {
        one.app().execute("INSERT INTO note VALUES (?1, 'of one')", [round * 10]).unwrap();
        two.app().execute("INSERT INTO note VALUES (?1, 'of two')", [round * 10 + 1]).unwrap();
        converge(&[&one, &two]);
        if round == 0 {
            server.kill();
            server.start();
        }
    }
    assert_eq!(rows(&two.app(), "SELECT count(*) FROM note")[0][0], "Integer(4)");
}

/// Checks that a node with these settings ends, and names the setting to check.
#[track_caller]
fn refuse(dir: &Path, server: &Server, settings: &str, named: &str) {
    let mut stranger = node(dir, 9, server, settings);
    stranger.start();
    assert_ne!(stranger.ended(), 0);
    assert!(stranger.output().contains(named), "does not name {named}: {}", stranger.output());
}

#[test]
fn user_and_password() {
    let dir = tempfile::tempdir().unwrap();
    let mut server =
        Server::new(dir.path(), r##"authorization { user: "shop", password: "p w$1\"#é" }"##);
    replicate(dir.path(), &mut server, "user_name = \"shop\"\nuser_password = 'p w$1\"#é'");
    refuse(
        dir.path(),
        &server,
        "user_name = \"shop\"\nuser_password = \"guessed\"",
        "nats.user_password",
    );
    refuse(dir.path(), &server, "", "nats.user_name");
}

#[test]
fn nkey_seed_file() {
    let dir = tempfile::tempdir().unwrap();
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let mut server = Server::new(
        dir.path(),
        &format!("authorization {{ users: [ {{ nkey: {} }} ] }}", user.public_key()),
    );
    // The file ends with a line end, as editors save it.
    let seed = file(dir.path(), "user.nk", &format!("{}\n", user.seed().unwrap()));
    replicate(dir.path(), &mut server, &format!("seed_file = {seed:?}"));
    let seed = file(dir.path(), "stranger.nk", &stranger.seed().unwrap());
    refuse(dir.path(), &server, &format!("seed_file = {seed:?}"), "nats.seed_file");
}

/// Waits until the server has refused the node, and then until it works with what `renew` has
/// written. `node` is connected.
#[track_caller]
fn renewed(node: &Node, renew: impl FnOnce()) {
    eventually("the server refuses the node", || {
        let status = node.status().unwrap_or_default();
        let refused = status["degraded"].to_string().to_lowercase().contains("authorization");
        status["broker"]["connected"] == false && refused
    });
    node.app().execute_batch("INSERT INTO note VALUES (1, 'after')").unwrap();
    renew();
    eventually("it works with the new file", || {
        let status = node.status().unwrap_or_default();
        status["broker"]["linked"] == true && status["counters"]["rows_published"] == 1
    });
}

#[test]
fn a_seed_file_that_is_replaced_needs_no_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (KeyPair::new_user(), KeyPair::new_user());
    let users = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", before.public_key());
    let mut server = Server::new(dir.path(), &users);
    server.start();
    let seed = file(dir.path(), "user.nk", &before.seed().unwrap());
    let mut node = node(dir.path(), 1, &server, &format!("seed_file = {seed:?}"));
    node.run();
    server.kill();
    let config = dir.path().join("server/server.conf");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace(&before.public_key(), &after.public_key())).unwrap();
    server.start();
    renewed(&node, || std::fs::write(&seed, after.seed().unwrap()).unwrap());
}

/// Makes a JWT signed with an nkey, like nsc.
fn jwt(signer: &KeyPair, subject: &KeyPair, name: &str, nats: serde_json::Value) -> String {
    jwt_until(signer, subject, name, (0, nats))
}

/// Makes a JWT that expires at this time, unix seconds; 0: never.
fn jwt_until(
    signer: &KeyPair,
    subject: &KeyPair,
    name: &str,
    (expires, nats): (u64, serde_json::Value),
) -> String {
    let claims = serde_json::json!({
        "jti": name, "iat": 1_700_000_000, "exp": expires, "iss": signer.public_key(),
        "name": name, "sub": subject.public_key(), "nats": nats
    });
    let header = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let signed = format!("{header}.{}", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
    let signature = signer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

fn account(operator: &KeyPair, account: &KeyPair, name: &str, storage: i64) -> String {
    let limits = serde_json::json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
        "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage
    });
    jwt(
        operator,
        account,
        name,
        serde_json::json!({ "limits": limits, "type": "account", "version": 2 }),
    )
}

fn creds(account: &KeyPair, user: &KeyPair, expires: u64) -> String {
    let nats = serde_json::json!({
        "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2
    });
    format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY \
        SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt_until(account, user, "node", (expires, nats)),
        user.seed().unwrap()
    )
}

/// A server in operator mode that knows this account.
fn server_of(dir: &Path, shop: &KeyPair) -> Server {
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let of_operator = serde_json::json!({ "type": "operator", "version": 2 });
    let text = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{\n  {}: {}\n  \
        {}: {}\n}}",
        jwt(&operator, &operator, "operator", of_operator),
        system.public_key(),
        system.public_key(),
        account(&operator, &system, "system", 0),
        shop.public_key(),
        account(&operator, shop, "shop", -1),
    );
    Server::new(dir, &text)
}

#[test]
fn creds_file() {
    let dir = tempfile::tempdir().unwrap();
    let (shop, user) = (KeyPair::new_account(), KeyPair::new_user());
    let mut server = server_of(dir.path(), &shop);
    let good = file(dir.path(), "node.creds", &creds(&shop, &user, 0));
    replicate(dir.path(), &mut server, &format!("creds_file = {good:?}"));
    // It is signed by an account that the server does not know.
    let bad = file(dir.path(), "stranger.creds", &creds(&KeyPair::new_account(), &user, 0));
    refuse(dir.path(), &server, &format!("creds_file = {bad:?}"), "nats.creds_file");
}

/// The JWT of a creds file expires while the node is connected.
#[test]
fn a_creds_file_that_is_replaced_needs_no_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (shop, user) = (KeyPair::new_account(), KeyPair::new_user());
    let mut server = server_of(dir.path(), &shop);
    server.start();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let creds_file = file(dir.path(), "node.creds", &creds(&shop, &user, now + 12));
    let mut node = node(dir.path(), 1, &server, &format!("creds_file = {creds_file:?}"));
    node.run();
    let another = creds(&shop, &KeyPair::new_user(), 0);
    renewed(&node, || std::fs::write(&creds_file, another).unwrap());
}

#[test]
fn tls_with_an_own_ca_and_client_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (Authority::new("shop"), Authority::new("somebody else"));
    let ca_file = ca.save(dir.path(), "ca.pem");
    let (cert, key) =
        ca.issue(dir.path(), "server", &["localhost", "127.0.0.1"], &[Purpose::ServerAuth]);
    let mut server = Server::new(
        dir.path(),
        &format!(
            "tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca_file:?}, verify: true, \
            timeout: 10 }}"
        ),
    );
    let (cert, key) = ca.issue(dir.path(), "node", &["node"], &[Purpose::ClientAuth]);
    let client = format!("cert_file = {cert:?}\nkey_file = {key:?}\n");
    replicate(dir.path(), &mut server, &format!("ca_file = {ca_file:?}\n{client}"));

    let other_ca = other.save(dir.path(), "other.pem");
    refuse(dir.path(), &server, &format!("ca_file = {other_ca:?}\n{client}"), "nats.ca_file");
    refuse(dir.path(), &server, &format!("ca_file = {ca_file:?}"), "nats.cert_file");
    let (cert, key) = other.issue(dir.path(), "stranger", &["stranger"], &[Purpose::ClientAuth]);
    refuse(
        dir.path(),
        &server,
        &format!("ca_file = {ca_file:?}\ncert_file = {cert:?}\nkey_file = {key:?}"),
        "nats.cert_file",
    );
}
