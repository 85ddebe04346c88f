//! `harmonylite nodes`: the nodes of the cluster as the running node sees them, and `nodes forget`.

use super::args::NodesAction;
use super::exit::{Exit, Failure};
use super::table::table;
use super::{control, show, status};
use crate::db::lockfile::{Sidecar, sidecar};
use crate::model::status::{NodeStatus, Status};
use crate::settings::Settings;
use anyhow::Result;
use std::process::ExitCode;

/// Lists the nodes, or forgets one.
pub(crate) fn run(
    settings: &Settings,
    json: bool,
    action: Option<NodesAction>,
) -> Result<ExitCode> {
    let (running, status) = status::look(settings)?;
    if !running {
        let what =
            format!("no node runs on {}, and only it knows the others", settings.db_path.display());
        return Err(Failure::new(Exit::General, what, "start it with `harmonylite run`").into());
    }
    if let Some(NodesAction::Forget { node }) = action {
        return forget(settings, &status, node);
    }
    let all = all(&status);
    show::print(&match json {
        true => serde_json::to_string(&all)? + "\n",
        false => text(&all, &status),
    });
    Ok(ExitCode::SUCCESS)
}

/// The other nodes, and this one, by id.
fn all(status: &Status) -> Vec<NodeStatus> {
    let behind = status.streams.iter().map(|s| s.last.saturating_sub(s.cursor)).sum();
    let mut all = status.nodes.clone();
    all.push(NodeStatus {
        node_id: status.node_id,
        running: true,
        seen_ms: status.now_ms,
        behind: status.lag_ms().map(|lag_ms| if lag_ms == 0 { 0 } else { behind }),
        same_schema: Some(true),
        version: status.version.clone(),
    });
    all.sort_by_key(|node| node.node_id);
    all
}

fn text(all: &[NodeStatus], status: &Status) -> String {
    let row = |node: &NodeStatus| {
        let seen = match node.node_id == status.node_id {
            true => "this node".to_owned(),
            false => show::ago(node.seen_ms, status.now_ms),
        };
        let schema = match node.same_schema {
            Some(true) => "same",
            Some(false) => "differs",
            None => "not known",
        };
        vec![
            node.node_id.to_string(),
            seen,
            if node.running { "running" } else { "not running" }.to_owned(),
            node.behind.map_or("not known".to_owned(), |n| format!("{n} messages")),
            schema.to_owned(),
            node.version.clone(),
        ]
    };
    let header = ["node", "seen", "state", "behind by", "schema", "version"];
    table(&header, header.len(), all.iter().map(row).collect())
}

fn forget(settings: &Settings, status: &Status, node: u64) -> Result<ExitCode> {
    let refuse = |what: String, hint: &str| Err(Failure::new(Exit::General, what, hint).into());
    if node == status.node_id {
        return refuse(
            format!("node {node} is this node"),
            "stop it, and run this command at another node",
        );
    }
    if status.nodes.iter().any(|other| other.node_id == node && other.running) {
        return refuse(
            format!("node {node} runs"),
            "stop it first, and wait until `harmonylite nodes` shows it as not running (45 s)",
        );
    }
    let Sidecar::Running(owner) = sidecar(&settings.db_path)? else {
        return refuse("the node has stopped".to_owned(), "start it again");
    };
    let answer = control::ask(owner.as_ref(), "POST", &format!("/nodes/{node}/forget"))?;
    if answer.status != 204 {
        return refuse(
            format!("node {node} is not forgotten: {}", answer.body),
            "`harmonylite status` shows the state of the connection; then try again",
        );
    }
    show::print(&format!(
        "Forgot node {node}: no node waits for it any more. If it starts again, it is a member \
        again.\n"
    ));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::status::StreamStatus;

    fn status() -> Status {
        let other = NodeStatus {
            node_id: 2,
            running: false,
            seen_ms: 1_000,
            behind: Some(7),
            same_schema: Some(false),
            version: "0.1".into(),
        };
        let stream = StreamStatus { lag_ms: Some(0), cursor: 5, last: 6, ..Default::default() };
        Status {
            node_id: 3,
            now_ms: 61_000,
            version: "0.2".into(),
            nodes: vec![other],
            streams: vec![stream],
            ..Status::default()
        }
    }

    #[test]
    fn every_node_has_a_line() {
        let text = text(&all(&status()), &status());
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1].join(" "), "2 1m ago not running 7 messages differs 0.1");
        assert_eq!(lines[2].join(" "), "3 this node running 0 messages same 0.2");
    }

    #[test]
    fn a_node_that_runs_is_not_forgotten() {
        let mut status = status();
        status.nodes[0].running = true;
        for (node, why) in [(2, "node 2 runs"), (3, "is this node")] {
            let error = forget(&Settings::default(), &status, node).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
