//! One server on its own.

use super::*;

#[tokio::test]
async fn its_own_client_gets_in_and_uses_jetstream_and_nobody_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = start(&settings(dir.path())).await.unwrap();
    let access = embedded.access().borrow().clone();
    assert!(access.url.starts_with("nats://127.0.0.1:"), "{}", access.url);
    assert!(embedded.version().starts_with("2."), "{}", embedded.version());

    let context = jetstream_of(&embedded).await;
    context
        .create_stream(jetstream::stream::Config {
            name: "s".into(),
            subjects: vec!["s.>".into()],
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(publish(&context, "s.1", "one").await, Ok(1));
    let stranger = Access { user: None, password: None, ..access };
    let refused = connect(&stranger).await.unwrap_err();
    assert!(refused.to_string().contains("authorization"), "{refused}");

    embedded.stop().await;
    let embedded = start(&settings(dir.path())).await.unwrap();
    let again = jetstream_of(&embedded).await;
    assert_eq!(
        again.get_stream("s").await.unwrap().cached_info().state.messages,
        1,
        "the store is the same after a stop"
    );
    embedded.stop().await;
}

#[tokio::test]
async fn a_killed_server_is_started_again_and_its_clients_find_it() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = start(&settings(dir.path())).await.unwrap();
    let context = jetstream_of(&embedded).await;
    context
        .create_stream(jetstream::stream::Config {
            name: "s".into(),
            subjects: vec!["s.>".into()],
            ..Default::default()
        })
        .await
        .unwrap();
    let url = embedded.access().borrow().url.clone();
    for life in 1..=2 {
        let sequence =
            eventually("publish", async || publish(&context, "s.1", "before the kill").await).await;
        kill(server_pid(dir.path(), 1));
        eventually("the restart", async || {
            (embedded.health().borrow().restarts == life)
                .then_some(())
                .ok_or(embedded.health().borrow().restarts)
        })
        .await;
        let after = eventually("publish after the kill", async || {
            publish(&context, "s.1", "after it").await
        })
        .await;
        assert!(
            after > sequence,
            "an acknowledged message outlives the kill: {after} > {sequence}"
        );
    }
    assert_eq!(embedded.access().borrow().url, url);
    embedded.stop().await;
}

/// nats-server 2.15.1 stores nothing more in a stream whose disk was full, for as long as it runs.
/// Here a shell says what it says then; a real disk of 24 MB that is filled and freed needs
/// privileges (seen by hand: the node goes on within two seconds).
#[tokio::test]
async fn a_server_whose_disk_was_full_is_started_again_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (script, full) = (dir.path().join("server.sh"), dir.path().join("full"));
    let text = format!(
        "#!/bin/sh\n[ \"$1\" != -c ] || ! rmdir {full:?} || \
         echo \"[1] [ERR] JetStream failed to store a msg on stream 's': write 1.blk: no space \
         left on device\" >&2\nexec {program:?} \"$@\"\n",
        program = program()
    );
    std::fs::create_dir(&full).unwrap();
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut settings = settings(dir.path());
    settings.nats.server_binary = script.to_str().unwrap().to_owned();

    let embedded = start(&settings).await.unwrap();
    let mut health = embedded.health();
    let restarted = health.wait_for(|health| health.restarts == 1 && !health.disk_full);
    tokio::time::timeout(Duration::from_secs(60), restarted)
        .await
        .expect("it is started again")
        .unwrap();
    let context =
        eventually("the restarted server", async || Ok::<_, String>(jetstream_of(&embedded).await))
            .await;
    let config = jetstream::stream::Config {
        name: "s".into(),
        subjects: vec!["s.>".into()],
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    assert_eq!(publish(&context, "s.1", "one").await, Ok(1));
    assert_eq!(embedded.health().borrow().restarts, 1, "once is enough");
    embedded.stop().await;
}

#[tokio::test]
async fn a_port_that_was_taken_during_a_restart_is_replaced_and_the_new_one_told() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = start(&settings(dir.path())).await.unwrap();
    let mut access = embedded.access();
    let former = access.borrow_and_update().url.clone();
    kill(server_pid(dir.path(), 1));
    let address = former.trim_start_matches("nats://");
    // Faster than the keeper's first wait.
    let thief = loop {
        if let Ok(listener) = TcpListener::bind(address) {
            break listener;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), access.changed())
        .await
        .expect("another address")
        .unwrap();
    let now = access.borrow().clone();
    assert_ne!(now.url, former);
    connect(&now).await.unwrap();
    assert_eq!(embedded.health().borrow().restarts, 1);
    drop(thief);
    embedded.stop().await;
}

#[tokio::test]
async fn a_server_that_hangs_is_killed_at_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = start(&settings(dir.path())).await.unwrap();
    let pid = server_pid(dir.path(), 1);
    signal(pid, rustix::process::Signal::STOP);
    embedded.stop().await;
    assert!(rustix::process::test_kill_process(pid).is_err(), "it is gone");
}

#[tokio::test]
async fn a_store_in_use_is_refused_and_free_after_the_owner_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = start(&settings(dir.path())).await.unwrap();
    let error = start(&settings(dir.path())).await.unwrap_err();
    assert!(
        matches!(&error, EmbeddedError::StoreLocked { path } if *path == store(dir.path(), 1)),
        "{error}"
    );
    // Dropped, not stopped: its server is killed.
    let pid = server_pid(dir.path(), 1);
    drop(embedded);
    start(&settings(dir.path())).await.unwrap().stop().await;
    assert!(rustix::process::test_kill_process(pid).is_err(), "the dropped server is gone");
}

#[tokio::test]
async fn a_bad_server_config_is_refused_with_the_servers_own_words() {
    let dir = tempfile::tempdir().unwrap();
    let error = start(&settings_with(dir.path(), "no_such_key: 3\n")).await.unwrap_err();
    assert!(
        matches!(&error, EmbeddedError::ConfigRefused { said } if said.contains("no_such_key")),
        "{error}"
    );
    let error = start(&settings_with(dir.path(), "accounts {\n")).await.unwrap_err();
    assert!(matches!(&error, EmbeddedError::ConfigRefused { .. }), "{error}");
    let mut missing = settings(dir.path());
    missing.nats.server_config = dir.path().join("missing.conf").to_str().unwrap().to_owned();
    let error = start(&missing).await.unwrap_err();
    assert!(
        matches!(&error, EmbeddedError::UserConfig { path, .. } if path.ends_with("missing.conf")),
        "{error}"
    );
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = settings(dir.path());
    settings.nats.bind_address = taken.local_addr().unwrap().to_string();
    let error = start(&settings).await.unwrap_err();
    let address = &settings.nats.bind_address;
    assert!(
        matches!(&error, EmbeddedError::PortInUse { said } if said.contains(address.as_str())),
        "{error}"
    );

    settings.nats.bind_address = ":-1".to_owned();
    let cluster = ClusterSettings { addr: Some(address_of(&taken)), ..ClusterSettings::default() };
    let error = Embedded::start(&settings, NodeId(1), &cluster).await.unwrap_err();
    assert!(
        matches!(&error, EmbeddedError::PortInUse { said } if said.contains(&address_of(&taken))),
        "{error}"
    );
    settings.nats.bind_address = "4222".to_owned();
    let error = start(&settings).await.unwrap_err();
    assert!(matches!(&error, EmbeddedError::BadAddress { .. }), "{error}");
}

fn address_of(listener: &TcpListener) -> String {
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn the_users_own_accounts_store_and_port_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mine = dir.path().join("mine");
    let mut settings = settings_with(
        dir.path(),
        &format!(
            "port: {port}\nhost: localhost # only here\naccounts {{ APP {{ jetstream: enabled, \
            users: [ {{ user: ann, password: \"p w\" }} ] }} }}\n\
             jetstream {{ store_dir: {:?}, max_file_store: 1GB }}\n",
            mine.to_str().unwrap()
        ),
    );
    settings.nats.user_name = "ann".to_owned();
    settings.nats.user_password = crate::settings::Secret::new("p w");
    let embedded = start(&settings).await.unwrap();
    assert_eq!(embedded.access().borrow().url, format!("nats://127.0.0.1:{port}"));
    let context = jetstream_of(&embedded).await;
    context
        .create_stream(jetstream::stream::Config { name: "s".into(), ..Default::default() })
        .await
        .unwrap();
    assert!(mine.join("jetstream/APP/streams/s").is_dir());
    embedded.stop().await;
}

#[tokio::test]
async fn an_exposed_server_takes_the_password_of_the_settings_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.nats.bind_address = format!(":{}", free_port());
    let embedded = start(&settings).await.unwrap();
    let access = embedded.access().borrow().clone();
    assert_eq!((&access.user, &access.password), (&None, &None));
    connect(&access).await.unwrap();
    embedded.stop().await;

    settings.nats.user_name = "ann".to_owned();
    settings.nats.user_password = crate::settings::Secret::new("quote\"back\\slash");
    let embedded = start(&settings).await.unwrap();
    let access = embedded.access().borrow().clone();
    connect(&access).await.unwrap();
    connect(&Access { user: None, password: None, ..access }).await.unwrap_err();
    embedded.stop().await;
}
