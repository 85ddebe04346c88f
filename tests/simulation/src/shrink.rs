//! Makes a failing plan small enough to read: fewer faults, fewer actions, quieter settings, while
//! it still fails in the same way.

use crate::plan::{ActionKind, Fates, Plan};
use crate::world::run;

/// The most worlds to try.
const WORLDS_MAX: u32 = 3_000;

/// Two failures are the same if they start with the same text, numbers excepted.
fn kind(failure: &str) -> String {
    failure.chars().filter(|c| !c.is_ascii_digit()).take(48).collect()
}

struct Shrinker {
    wanted: String,
    worlds: u32,
}

impl Shrinker {
    fn fails(&mut self, plan: &Plan) -> bool {
        self.worlds += 1;
        self.worlds <= WORLDS_MAX
            && run(plan, false).failure.is_some_and(|f| self.wanted == kind(&f))
    }

    fn without(&mut self, plan: &Plan, change: impl FnOnce(&mut Plan)) -> Option<Plan> {
        let mut smaller = plan.clone();
        change(&mut smaller);
        self.fails(&smaller).then_some(smaller)
    }
}

/// Returns the smallest found plan with the same failure; the plan itself if it does not fail.
pub fn shrink(plan: &Plan) -> Plan {
    let Some(failure) = run(plan, false).failure else { return plan.clone() };
    let mut shrinker = Shrinker { wanted: kind(&failure), worlds: 0 };
    let mut best = plan.clone();
    let kinds = [
        ActionKind::Migrate,
        ActionKind::LoseDisk,
        ActionKind::Save,
        ActionKind::Ghost,
        ActionKind::Redeliver,
        ActionKind::ConsumerLost,
        ActionKind::Lock,
        ActionKind::ClockJump,
        ActionKind::LongQuiet,
        ActionKind::Recreate,
        ActionKind::Hole,
        ActionKind::RollBack,
        ActionKind::Expire,
        ActionKind::OneWay,
        ActionKind::PowerCut,
        ActionKind::Crash,
        ActionKind::Cut,
        ActionKind::Sync,
        ActionKind::Start,
        ActionKind::Heal,
    ];
    for kind in kinds.into_iter().filter(|w| plan.has(*w)) {
        if let Some(smaller) = shrinker.without(&best, |p| p.actions.retain(|a| a.kind != kind)) {
            best = smaller;
        }
    }
    for node in 0..best.nodes {
        if let Some(smaller) = shrinker
            .without(&best, |p| p.actions.retain(|a| a.node != node || a.kind == ActionKind::Tick))
        {
            best = smaller;
        }
    }
    let quieter: [fn(&mut Plan); 7] = [
        |p| p.fates = Fates::default(),
        |p| p.clocks.iter_mut().for_each(|c| *c = (0, 0)),
        |p| p.shards = 1,
        |p| p.populated = false,
        |p| p.work.filler = 0,
        |p| p.stream_bytes = u64::MAX,
        |p| p.limits = harmonylite::model::limits::Limits::default(),
    ];
    for change in quieter {
        if let Some(smaller) = shrinker.without(&best, change) {
            best = smaller;
        }
    }
    fewer_actions(&mut shrinker, best)
}

/// Removes smaller and smaller groups of actions.
fn fewer_actions(shrinker: &mut Shrinker, mut best: Plan) -> Plan {
    let mut piece = (best.actions.len() / 2).max(1);
    loop {
        let (mut at, mut shorter) = (0, false);
        while at < best.actions.len() {
            let end = (at + piece).min(best.actions.len());
            match shrinker.without(&best, |p| drop(p.actions.drain(at..end))) {
                Some(smaller) => (best, shorter) = (smaller, true),
                None => at = end,
            }
        }
        if piece > 1 {
            piece /= 2;
        } else if !shorter || shrinker.worlds > WORLDS_MAX {
            return best;
        }
    }
}
