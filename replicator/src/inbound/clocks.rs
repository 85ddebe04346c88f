//! Finds out whose clock is wrong, by the broker's time of messages.
//!
//! Arrives: when a batch was made, by the clock of its node, and when the broker stored it. Leaves:
//! a warning for each node at most once a minute, and a reason for the status until the clock is
//! right again. A message takes time, so only a clock that is ahead of the broker shows at its
//! sender, and only one that is behind at its receiver. Memory only.

use crate::model::config::{BrokerClock, NodeConfig, Now};
use crate::model::ids::NodeId;
use std::collections::BTreeMap;

/// The least time between two warnings about one node.
const WARN_MS: u64 = 60_000;
/// More nodes than this are not told apart. Messages can name any node.
const NODES_MAX: usize = 1_000;

/// The broker's time is passed on when it is ahead of what was passed on by more than this.
const BROKER_TIME_STEP_MS: i64 = 1_000;

/// A batch that was applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamped {
    /// Its node.
    pub(super) node: NodeId,
    /// When it was made, by its node's clock, unix milliseconds.
    pub(super) created_ms: i64,
    /// When the broker stored it, unix milliseconds.
    pub(super) broker_ms: i64,
}

#[derive(Clone, Copy, Debug)]
struct WrongClock {
    /// Milliseconds ahead of the broker; negative: behind.
    ahead_ms: i64,
    warn_at_ms: u64,
}

/// The nodes with wrong clocks.
#[derive(Debug)]
pub(super) struct Clocks {
    me: NodeId,
    drift_ms_max: i64,
    wrong: BTreeMap<u64, WrongClock>,
    /// The broker's time, by the messages so far.
    broker: Option<BrokerClock>,
}

impl Clocks {
    /// Creates it; all clocks count as right.
    pub(super) fn new(config: &NodeConfig) -> Self {
        Self {
            me: config.node,
            drift_ms_max: config.max_clock_drift_ms,
            wrong: BTreeMap::new(),
            broker: None,
        }
    }

    /// Takes a time that the broker has passed. Returns whether it is news: outbound needs the
    /// broker's time to the second.
    pub(super) fn passes(&mut self, broker_ms: i64, now: Now) -> bool {
        let is_news =
            self.broker.is_none_or(|clock| broker_ms > clock.at(now) + BROKER_TIME_STEP_MS);
        if is_news {
            self.broker = Some(BrokerClock::new(broker_ms, now));
        }
        is_news
    }

    /// Takes a batch of another node. Returns whether it warned.
    pub(super) fn saw_batch(&mut self, batch: Stamped, now: Now) -> bool {
        let ahead_ms = batch.created_ms.saturating_sub(batch.broker_ms).max(0);
        self.judge(batch.node, ahead_ms, now)
    }

    /// Takes the time of a message that arrives now. Returns whether it warned of our own clock.
    pub(super) fn saw_message(&mut self, broker_ms: i64, now: Now) -> bool {
        self.judge(self.me, now.unix_ms.saturating_sub(broker_ms).min(0), now)
    }

    fn judge(&mut self, node: NodeId, ahead_ms: i64, now: Now) -> bool {
        if ahead_ms.saturating_abs() <= self.drift_ms_max {
            if self.wrong.remove(&node.0).is_some() {
                tracing::info!(node = node.0, "the clock of this node is right again");
            }
            return false;
        }
        if self.wrong.len() >= NODES_MAX && !self.wrong.contains_key(&node.0) {
            return false;
        }
        let wrong = self.wrong.entry(node.0).or_insert(WrongClock { ahead_ms, warn_at_ms: 0 });
        wrong.ahead_ms = ahead_ms;
        if now.mono_ms < wrong.warn_at_ms {
            return false;
        }
        wrong.warn_at_ms = now.mono_ms + WARN_MS;
        tracing::warn!(node = node.0, "{}", text(node.0, ahead_ms));
        true
    }

    /// Describes the wrong clocks, for people.
    pub(super) fn describe(&self) -> Vec<String> {
        self.wrong.iter().map(|(node, wrong)| text(*node, wrong.ahead_ms)).collect()
    }
}

fn text(node: u64, ahead_ms: i64) -> String {
    let seconds = ahead_ms.unsigned_abs() / 1_000;
    let (side, effect) = if ahead_ms > 0 {
        ("ahead of", "win against later")
    } else {
        ("behind", "lose against earlier")
    };
    format!(
        "the clock of node {node} is {seconds} s {side} the broker's: its writes {effect} \
        ones of other nodes; set it right (NTP)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(unix_ms: i64, mono_ms: u64) -> Now {
        Now { unix_ms, mono_ms }
    }

    fn made(node: u64, created_ms: i64) -> Stamped {
        Stamped { node: NodeId(node), created_ms, broker_ms: 1_000_000 }
    }

    #[test]
    fn a_node_is_warned_of_once_a_minute_by_name_until_its_clock_is_right() {
        let mut clocks = Clocks::new(&NodeConfig::for_tests(1));
        let at = |mono_ms| now(1_000_000, mono_ms);
        assert!(!clocks.saw_batch(made(2, 1_001_000), at(0)), "just within the bound");
        assert!(clocks.saw_batch(made(2, 1_090_000), at(0)));
        assert!(!clocks.saw_batch(made(2, 1_090_000), at(59_999)));
        assert!(clocks.saw_batch(made(3, 1_090_000), at(59_999)), "another node");
        assert!(clocks.saw_batch(made(2, 1_090_000), at(60_000)));
        assert_eq!(clocks.describe().len(), 2);
        assert!(clocks.describe()[0].contains("node 2 is 90 s ahead"), "{:?}", clocks.describe());
        clocks.saw_batch(made(2, 999_000), at(60_001));
        clocks.saw_batch(made(3, 0), at(60_001));
        assert!(clocks.describe().is_empty(), "a batch that was long under way is no fault");
    }

    #[test]
    fn the_own_clock_is_named_when_it_is_behind() {
        let mut clocks = Clocks::new(&NodeConfig::for_tests(7));
        assert!(!clocks.saw_message(1_000_000, now(9_000_000, 0)), "an old message");
        assert!(clocks.saw_message(1_000_000, now(910_000, 0)));
        assert!(clocks.describe()[0].contains("node 7 is 90 s behind"));
        clocks.saw_message(1_000_000, now(1_000_001, 5));
        assert!(clocks.describe().is_empty());
    }

    #[test]
    fn forged_nodes_are_bounded() {
        let mut clocks = Clocks::new(&NodeConfig::for_tests(1));
        for node in 2..3_000 {
            clocks.saw_batch(made(node, i64::MAX), now(0, 0));
        }
        assert_eq!(clocks.describe().len(), NODES_MAX);
    }
}
