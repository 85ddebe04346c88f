//! Tries settings around the defaults, one at a time, and recommends only what beats the noise.
//!
//! Every round runs the defaults twice and each setting once, in an order that changes, so that a
//! busy neighbour hits all alike. The two runs of the defaults show the noise. A setting is better
//! if it beats both runs of the defaults in every round by more than a twentieth, and at the median
//! by more than the defaults ever differed from themselves.

use crate::Parts;
use crate::broker::BrokerKind;
use crate::report::{Report, Trial};
use crate::sample::median;
use crate::workload::{Results, Variation, Workload, trial};
use anyhow::{Context, Result};
use std::time::Duration;

/// A setting that differs by less is not worth a line in a configuration file.
const WORTH: f64 = 1.05;
const ROUNDS: usize = 5;
const DEFAULTS: &str = "the defaults";

/// Keys of the configuration file, and values on both sides of the default.
const SETTINGS: [&str; 6] = [
    "replication_log.shards = 2",
    "replication_log.shards = 4",
    "politeness = 0",
    "politeness = 500",
    "polling_interval = 50",
    "snapshot.enabled = false",
];

/// What is compared: less is better for each.
const MEASURES: [&str; 5] = [
    "commit to visible, median",
    "commit to visible, p99",
    "time in a transaction, p99",
    "until all nodes are equal",
    "CPU a row of all sidecars",
];

/// Returns how many runs a sweep has.
pub(crate) fn steps(quick: bool) -> usize {
    rounds(quick) * variations().map_or(0, |v| v.len())
}

fn rounds(quick: bool) -> usize {
    if quick { 3 } else { ROUNDS }
}

fn variations() -> Result<Vec<(String, Variation)>> {
    let plain = Variation { settings: toml::Table::new(), broker: BrokerKind::Plain, vfs: false };
    let mut all = vec![(DEFAULTS.to_owned(), plain.clone()), (DEFAULTS.to_owned(), plain.clone())];
    for line in SETTINGS {
        let settings = line.parse().with_context(|| format!("the setting {line:?}"))?;
        all.push((line.to_owned(), Variation { settings, ..plain.clone() }));
    }
    let vfs = Variation { vfs: true, ..plain.clone() };
    all.push(("the application through the VFS".to_owned(), vfs));
    let synced = Variation { broker: BrokerKind::Synced, ..plain };
    all.push(("a broker that syncs each message (loses none)".to_owned(), synced));
    Ok(all)
}

/// Tries all, and adds the trials and the advice to the report.
pub(crate) fn measure(
    parts: &Parts,
    workload: &Workload,
    report: &mut Report,
    quick: bool,
) -> Result<()> {
    let time = Duration::from_secs(workload.seconds.min(if quick { 2 } else { 5 }));
    let variations = variations()?;
    // By variation, by round.
    let mut measured = vec![Vec::new(); variations.len()];
    report.settings = toml::to_string(&workload.settings)?;
    for round in 0..rounds(quick) {
        for place in 0..variations.len() {
            let at = (place + round * 3) % variations.len();
            let (Some((name, variation)), Some(values)) =
                (variations.get(at), measured.get_mut(at))
            else {
                continue;
            };
            report.group(&format!("round {}, {name}", round + 1));
            let results = trial(parts, workload, variation, time)?;
            values.push(values_of(&results));
        }
    }
    let names: Vec<&str> = variations.iter().map(|(name, _)| name.as_str()).collect();
    report.trials = judge(&names, &measured);
    report.advice = advice(&names, &report.trials, quick);
    Ok(())
}

fn values_of(results: &Results) -> [f64; MEASURES.len()] {
    [
        results.visible.quantile(500),
        results.visible.quantile(990),
        results.transactions().quantile(990),
        results.equal_s,
        results.sidecar_us_a_row(),
    ]
}

/// Compares all with the defaults, which are the first two.
fn judge(names: &[&str], measured: &[Vec<[f64; MEASURES.len()]>]) -> Vec<Trial> {
    let mut trials = Vec::new();
    let [first, second, others @ ..] = measured else { return trials };
    for (variation, name) in others.iter().zip(names.iter().skip(2)) {
        for (at, measure) in MEASURES.iter().enumerate() {
            let of = |runs: &[[f64; MEASURES.len()]]| -> Vec<f64> {
                runs.iter().filter_map(|values| values.get(at).copied()).collect()
            };
            trials.push(compare(name, measure, [&of(first), &of(second)], &of(variation)));
        }
    }
    trials
}

fn compare(setting: &str, measure: &str, defaults: [&[f64]; 2], tried: &[f64]) -> Trial {
    let [first, second] = defaults;
    let pairs = || first.iter().zip(second);
    let apart = |(a, b): (&f64, &f64)| (a / b).max(b / a);
    let noise = pairs().map(apart).fold(1.0, f64::max);
    let ratios = tried.iter().zip(pairs()).map(|(t, (a, b))| t / ((a + b) / 2.0)).collect();
    let rounds = tried.len();
    let better = tried.iter().zip(pairs()).filter(|(t, (a, b))| *t * WORTH < a.min(**b)).count();
    let worse = tried.iter().zip(pairs()).filter(|(t, (a, b))| **t > a.max(**b) * WORTH).count();
    let ratio = median(ratios);
    let least = noise.max(WORTH);
    let verdict = if better == rounds && ratio * least < 1.0 {
        Trial::BETTER
    } else if worse == rounds && ratio > least {
        Trial::WORSE
    } else {
        "within the noise"
    };
    Trial {
        setting: setting.to_owned(),
        measure: measure.to_owned(),
        ratio,
        noise,
        better,
        rounds,
        verdict: verdict.to_owned(),
    }
}

/// Returns what a person can do, in sentences.
fn advice(names: &[&str], trials: &[Trial], quick: bool) -> Vec<String> {
    let mut advice = Vec::new();
    for name in names.iter().skip(2) {
        let with = |verdict: &str| -> String {
            let of = trials.iter().filter(|t| t.setting == *name && t.verdict == verdict);
            let said = |t: &Trial| format!("{} {:.2} of the defaults", t.measure, t.ratio);
            of.map(said).collect::<Vec<_>>().join(", ")
        };
        let (better, worse) = (with(Trial::BETTER), with(Trial::WORSE));
        match (better.is_empty(), worse.is_empty()) {
            (false, true) => advice.push(format!("Recommended: {name}: {better}.")),
            (false, false) => advice.push(format!("A choice: {name}: {better}, but {worse}.")),
            (true, false) => advice.push(format!("Worse: {name}: {worse}.")),
            (true, true) => {}
        }
    }
    if !advice.iter().any(|line| line.starts_with("Recommended")) {
        advice.push(
            "Keep the defaults: nothing is better beyond the noise without being worse \
            elsewhere."
                .to_owned(),
        );
    }
    if quick {
        advice.push(
            "Three short rounds find large differences only, and may find one that is \
            none: repeat without --quick before you change anything."
                .to_owned(),
        );
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn noisy(random: &mut Random, middle: f64) -> Vec<f64> {
        (0..ROUNDS).map(|_| middle * (0.8 + 0.4 * random.share())).collect()
    }

    fn verdict(random: &mut Random, middle: f64) -> String {
        let (a, b, tried) = (noisy(random, 1.0), noisy(random, 1.0), noisy(random, middle));
        compare("s", "m", [&a, &b], &tried).verdict
    }

    #[test]
    fn noise_is_not_recommended() {
        let mut random = Random::new(1);
        let all: Vec<String> = (0..10_000).map(|_| verdict(&mut random, 1.0)).collect();
        let found = all.iter().filter(|verdict| *verdict != "within the noise").count();
        assert!(found < 10, "{found} of 10,000 settings without effect");
    }

    #[test]
    fn a_large_difference_is_found_in_both_directions() {
        let mut random = Random::new(1);
        let mut share = |middle: f64, expected: &str| {
            (0..1_000).filter(|_| verdict(&mut random, middle) == expected).count()
        };
        assert!(share(0.4, Trial::BETTER) > 950);
        assert!(share(2.5, Trial::WORSE) > 950);
    }

    #[test]
    fn what_was_not_measured_is_not_recommended() {
        let nothing = [f64::NAN; ROUNDS];
        let trial = compare("s", "m", [&nothing, &nothing], &nothing);
        assert_eq!(trial.verdict, "within the noise");
    }

    #[test]
    fn advice_names_both_sides() {
        let trial = |measure: &str, verdict: &str| Trial {
            setting: "politeness = 0".to_owned(),
            measure: measure.to_owned(),
            ratio: 0.5,
            noise: 1.1,
            better: 5,
            rounds: 5,
            verdict: verdict.to_owned(),
        };
        let names = [DEFAULTS, DEFAULTS, "politeness = 0"];
        let good = advice(&names, &[trial("p99", Trial::BETTER)], false);
        assert_eq!(good, ["Recommended: politeness = 0: p99 0.50 of the defaults."]);
        let both = advice(&names, &[trial("a", Trial::BETTER), trial("b", Trial::WORSE)], false);
        assert!(both[0].starts_with("A choice") && both[1].starts_with("Keep"), "{both:?}");
    }

    #[test]
    fn all_settings_can_be_read() {
        assert_eq!(variations().unwrap().len(), SETTINGS.len() + 4);
    }
}
