//! Makes the values of parameters.

use super::format::{Transaction, Value};
use crate::random::{Random, uuid};
use anyhow::Result;
use rusqlite::{Connection, ToSql, types};

/// Makes values for one connection.
#[derive(Clone, Debug)]
pub(super) struct Values {
    random: Random,
    next: u64,
    step: u64,
}

impl Values {
    /// Of `step` connections this is number `at`, whose numbers are `first + at`, `first + at +
    /// step` and so on.
    pub(super) fn new(first: u64, at: u64, step: u64) -> Self {
        Self { random: Random::new(first ^ (at << 48)), next: first + at, step }
    }

    /// Runs the statements of a transaction once, each parameter of a name with one value. Returns
    /// how many rows they changed.
    pub(super) fn run(&mut self, db: &Connection, transaction: &Transaction) -> Result<u64> {
        let mut values = Vec::with_capacity(transaction.values.len());
        for (name, value) in &transaction.values {
            values.push((name.get_ref().as_str(), self.value(value.get_ref())));
        }
        let mut changed = 0;
        for sql in &transaction.statements {
            let mut statement = db.prepare_cached(sql.get_ref())?;
            for at in 1..=statement.parameter_count() {
                let name = statement.parameter_name(at).and_then(|name| name.get(1..));
                let found = values.iter().find(|(known, _)| Some(*known) == name);
                let value = found.map_or(types::Value::Null, |(_, value)| value.clone());
                statement.raw_bind_parameter(at, value.to_sql()?)?;
            }
            if statement.readonly() {
                let mut rows = statement.raw_query();
                while rows.next()?.is_some() {}
            } else {
                changed += statement.raw_execute()? as u64;
            }
        }
        Ok(changed)
    }

    /// Returns a number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    fn value(&mut self, value: &Value) -> types::Value {
        let number = |random: &mut Random, [a, b]: [i64; 2], share: f64| {
            let wide = b.abs_diff(a).saturating_add(1);
            let offset =
                if share < 1.0 { (wide as f64 * share) as u64 } else { random.below(wide) };
            a.saturating_add_unsigned(offset.min(wide - 1))
        };
        let length = |random: &mut Random, [a, b]: [u32; 2]| {
            a as usize + random.below(u64::from(b - a) + 1) as usize
        };
        match value {
            Value::Uuid => uuid(self.random.next()).into(),
            Value::Number => {
                let number = self.next;
                self.next += self.step;
                i64::try_from(number).unwrap_or(i64::MAX).into()
            }
            Value::Now => crate::time::unix_ms().into(),
            Value::Integer(range) => number(&mut self.random, *range, 1.0).into(),
            Value::Skewed(range) => {
                let share = self.random.share().powi(3);
                number(&mut self.random, *range, share).into()
            }
            Value::Real([a, b]) => (a + (b - a) * self.random.share()).into(),
            Value::Text(range) => {
                let length = length(&mut self.random, *range);
                text(&mut self.random, length).into()
            }
            Value::Blob(range) => {
                let length = length(&mut self.random, *range);
                (0..length).map(|_| self.random.next() as u8).collect::<Vec<u8>>().into()
            }
            Value::Choice(choices) => {
                let at = self.random.below(choices.len() as u64) as usize;
                choices.get(at).map_or(types::Value::Null, plain)
            }
        }
    }
}

fn plain(value: &toml::Value) -> types::Value {
    match value {
        toml::Value::Integer(value) => (*value).into(),
        toml::Value::Float(value) => (*value).into(),
        toml::Value::String(value) => value.clone().into(),
        _ => types::Value::Null,
    }
}

/// Returns words, which compress about as well as prose.
fn text(random: &mut Random, length: usize) -> String {
    const WORDS: [&str; 16] = [
        "river", "seven", "of", "the", "lamp", "and", "yellow", "bridge", "in", "quiet", "was",
        "letter", "a", "winter", "found", "harbour",
    ];
    let mut text = String::with_capacity(length + 8);
    while text.len() < length {
        text += WORDS[random.below(WORDS.len() as u64) as usize];
        text.push(' ');
    }
    text.truncate(length);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::types::Value as Made;

    fn made(value: Value) -> Vec<Made> {
        let mut values = Values::new(1, 0, 1);
        (0..2_000).map(|_| values.value(&value)).collect()
    }

    fn integers(value: Value) -> Vec<i64> {
        made(value).into_iter().map(|v| if let Made::Integer(i) = v { i } else { 0 }).collect()
    }

    #[test]
    fn values_stay_in_their_range_and_reach_its_ends() {
        let even = integers(Value::Integer([-1, 8]));
        assert_eq!((even.iter().min(), even.iter().max()), (Some(&-1), Some(&8)));
        assert_eq!(integers(Value::Integer([i64::MIN, i64::MAX])).len(), 2_000);
        let skewed = integers(Value::Skewed([0, 799]));
        let low = skewed.iter().filter(|v| **v < 100).count();
        assert!((900..1_100).contains(&low) && skewed.iter().all(|v| (0..800).contains(v)));
        for value in made(Value::Text([2, 4])) {
            assert!(matches!(value, Made::Text(ref t) if (2..=4).contains(&t.len())), "{value:?}");
        }
        assert!(
            made(Value::Blob([3, 3])).iter().all(|v| matches!(v, Made::Blob(b) if b.len() == 3))
        );
    }

    #[test]
    fn no_two_connections_give_the_same_number() {
        let mut one = Values::new(10, 0, 2);
        let mut two = Values::new(10, 1, 2);
        let of = |values: &mut Values| [0; 3].map(|_| values.value(&Value::Number));
        assert_eq!(of(&mut one), [10, 12, 14].map(Made::Integer));
        assert_eq!(of(&mut two), [11, 13, 15].map(Made::Integer));
        assert_ne!(one.value(&Value::Uuid), two.value(&Value::Uuid));
    }
}
