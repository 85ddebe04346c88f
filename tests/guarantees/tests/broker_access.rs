//! Nodes connect to a server with every supported kind of authentication, and reconnect after its
//! restart.
//!
//! Goal: user and password, nkey seed file, creds file (a server in operator mode), TLS with an own
//! CA and client certificates all work. Method: a real nats-server is configured for each of them.
//! The test makes the keys, JWTs and certificates.

#![allow(clippy::unwrap_used)]

use data_encoding::BASE64URL_NOPAD;
use harmonylite_guarantees::{Authority, Node, Purpose, Server, converge, rows};
use nkeys::KeyPair;
use std::path::{Path, PathBuf};

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

/// Makes a JWT signed with an nkey, like nsc.
fn jwt(signer: &KeyPair, subject: &KeyPair, name: &str, nats: serde_json::Value) -> String {
    let claims = serde_json::json!({
        "jti": name, "iat": 1_700_000_000, "iss": signer.public_key(), "name": name,
        "sub": subject.public_key(), "nats": nats
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

fn creds(account: &KeyPair, user: &KeyPair) -> String {
    let nats = serde_json::json!({
        "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2
    });
    format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY \
        SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt(account, user, "node", nats),
        user.seed().unwrap()
    )
}

#[test]
fn creds_file() {
    let dir = tempfile::tempdir().unwrap();
    let (operator, system, shop, user) = (
        KeyPair::new_operator(),
        KeyPair::new_account(),
        KeyPair::new_account(),
        KeyPair::new_user(),
    );
    let mut server = Server::new(
        dir.path(),
        &format!(
            "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{\n  {}: {}\n  \
            {}: {}\n}}",
            jwt(
                &operator,
                &operator,
                "operator",
                serde_json::json!({ "type": "operator", "version": 2 })
            ),
            system.public_key(),
            system.public_key(),
            account(&operator, &system, "system", 0),
            shop.public_key(),
            account(&operator, &shop, "shop", -1),
        ),
    );
    let good = file(dir.path(), "node.creds", &creds(&shop, &user));
    replicate(dir.path(), &mut server, &format!("creds_file = {good:?}"));
    // It is signed by an account that the server does not know.
    let bad = file(dir.path(), "stranger.creds", &creds(&KeyPair::new_account(), &user));
    refuse(dir.path(), &server, &format!("creds_file = {bad:?}"), "nats.creds_file");
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
