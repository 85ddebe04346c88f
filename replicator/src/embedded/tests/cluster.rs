//! Three clustered servers: they elect, keep what was acknowledged, and outlive one of them.

use super::*;

struct Member {
    settings: Settings,
    node: NodeId,
    cluster: ClusterSettings,
}

impl Member {
    async fn start(&self) -> Embedded {
        Embedded::start(&self.settings, self.node, &self.cluster).await.unwrap()
    }
}

fn members(dir: &Path) -> Vec<Member> {
    let addresses: Vec<String> = (0..3).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let member = |number: usize| {
        let own = dir.join(number.to_string());
        std::fs::create_dir(&own).unwrap();
        let others = addresses.iter().enumerate().filter(|(other, _)| *other != number);
        let peers = others.map(|(_, address)| format!("nats://r:secret@{address}/")).collect();
        let cluster = ClusterSettings {
            addr: Some(addresses[number].clone()),
            peers,
            ..ClusterSettings::default()
        };
        Member { settings: settings(&own), node: NodeId(number as u64 + 1), cluster }
    };
    (0..3).map(member).collect()
}

async fn all_current(context: &jetstream::Context) {
    eventually("all replicas current", async || {
        let mut stream = context.get_stream("s").await.map_err(|e| e.to_string())?;
        let info = stream.info().await.map_err(|e| e.to_string())?.clone();
        let current = info.cluster.map_or(0, |cluster| {
            cluster.replicas.iter().filter(|peer| peer.current && !peer.offline).count()
        });
        if current == 2 { Ok(()) } else { Err(format!("{current} of 2 replicas")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_started_one_after_another_elect_and_outlive_one() {
    let dir = tempfile::tempdir().unwrap();
    let members = members(dir.path());
    let first = members[0].start().await;
    let second = members[1].start().await;
    let third = members[2].start().await;
    let context = jetstream_of(&first).await;
    let stream = jetstream::stream::Config {
        name: "s".into(),
        subjects: vec!["s.>".into()],
        num_replicas: 3,
        ..Default::default()
    };
    eventually("a stream with three replicas", async || {
        context.create_stream(stream.clone()).await
    })
    .await;
    all_current(&context).await;

    // One server is killed: the others go on, its keeper brings it back.
    kill(server_pid(&dir.path().join("1"), 2));
    eventually("publish with one down", async || publish(&context, "s.1", "one killed").await)
        .await;
    eventually("the restart", async || {
        (second.health().borrow().restarts == 1).then_some(()).ok_or("not restarted")
    })
    .await;
    all_current(&context).await;

    // One node is stopped, and started later with the same command.
    third.stop().await;
    let written = eventually("publish with one stopped", async || {
        publish(&context, "s.1", "one stopped").await
    })
    .await;
    let third = members[2].start().await;
    all_current(&context).await;
    let at_third = jetstream_of(&third).await;
    let seen =
        eventually("the stream seen from the third", async || at_third.get_stream("s").await).await;
    assert!(seen.cached_info().state.last_sequence >= written);
    for embedded in [first, second, third] {
        embedded.stop().await;
    }
}
