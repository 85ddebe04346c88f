//! A leaf server's client works with the streams of the hub.

use super::*;
use futures_util::StreamExt;

/// Everything that a node does with a broker, through a leaf.
async fn the_hubs_jetstream_serves_the_leaf(hub_config: &str, leaf_config: &str) {
    let (hub_dir, leaf_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let port = free_port();
    // The leaf first: it must wait for its hub.
    let cluster = ClusterSettings {
        leaf_servers: vec![format!("nats://l:secret@127.0.0.1:{port}")],
        ..ClusterSettings::default()
    };
    let leaf = Embedded::start(&settings_with(leaf_dir.path(), leaf_config), NodeId(2), &cluster)
        .await
        .unwrap();
    let leafnodes = format!(
        "leafnodes {{ listen: \"127.0.0.1:{port}\", authorization {{ user: l, password: secret }} \
        }}\n"
    );
    let hub_settings = settings_with(hub_dir.path(), &(leafnodes + hub_config));
    let hub = start(&hub_settings).await.unwrap();

    let at_leaf = jetstream_of(&leaf).await;
    let config = jetstream::stream::Config {
        name: "s".into(),
        subjects: vec!["s.>".into()],
        allow_direct: true,
        ..Default::default()
    };
    let stream = eventually("a stream made through the leaf", async || {
        at_leaf.create_stream(config.clone()).await
    })
    .await;
    let at_hub = jetstream_of(&hub).await;
    assert_eq!(publish(&at_leaf, "s.leaf", "from the leaf").await, Ok(1));
    for number in 2..=500 {
        publish(&at_hub, "s.hub", &format!("{number} {}", "x".repeat(20_000))).await.unwrap();
    }
    assert_eq!(stream.direct_get_last_for_subject("s.leaf").await.unwrap().sequence, 1);

    let deliver_subject = "_INBOX.leaf.test".to_owned();
    let consumer = jetstream::consumer::push::Config {
        deliver_subject,
        ack_policy: jetstream::consumer::AckPolicy::None,
        flow_control: true,
        idle_heartbeat: Duration::from_secs(5),
        ..Default::default()
    };
    let mut messages = stream.create_consumer(consumer).await.unwrap().messages().await.unwrap();
    for sequence in 1..=500 {
        let message = tokio::time::timeout(Duration::from_secs(30), messages.next())
            .await
            .expect("a delivery")
            .unwrap()
            .unwrap();
        assert_eq!(message.info().unwrap().stream_sequence, sequence);
    }

    let bucket = jetstream::kv::Config { bucket: "b".into(), ..Default::default() };
    let at_leaf_bucket = at_leaf.create_key_value(bucket).await.unwrap();
    let mut watch = at_leaf_bucket.watch_all().await.unwrap();
    at_leaf_bucket.put("k", "v".into()).await.unwrap();
    assert_eq!(at_leaf_bucket.get("k").await.unwrap().unwrap(), "v");
    let seen = tokio::time::timeout(Duration::from_secs(30), watch.next())
        .await
        .expect("a change seen")
        .unwrap()
        .unwrap();
    assert_eq!((seen.key.as_str(), &seen.value[..]), ("k", &b"v"[..]));
    assert_eq!(at_hub.get_key_value("b").await.unwrap().get("k").await.unwrap().unwrap(), "v");

    hub.stop().await;
    assert!(publish(&at_leaf, "s.leaf", "nobody home").await.is_err());
    let hub = start(&hub_settings).await.unwrap();
    assert!(
        eventually("publish after the hub came back", async || publish(&at_leaf, "s.leaf", "back")
            .await)
        .await
            > 500
    );
    leaf.stop().await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_uses_the_hubs_streams() {
    the_hubs_jetstream_serves_the_leaf("", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_uses_the_streams_of_a_hub_with_a_domain() {
    the_hubs_jetstream_serves_the_leaf(
        "jetstream { domain: hub }",
        "default_js_domain: { \"$G\": hub }",
    )
    .await;
}
