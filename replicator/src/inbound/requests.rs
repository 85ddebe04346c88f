//! Sends requests to the broker, and remembers their questions until the answer.
//!
//! Arrives: the questions of components. Leaves: requests with tickets, and the question of each
//! answer. Owns: an answer for an earlier connection or check finds no question.

use crate::broker::{Broker, BrokerError, Request, Ticket};
use crate::repair::question::{Outgoing, Question};
use std::collections::HashMap;

/// The broker, and the outstanding questions.
#[derive(Debug)]
pub(super) struct Requests<B> {
    broker: B,
    next_ticket: Ticket,
    outstanding: HashMap<Ticket, Question>,
    /// The last error since the connection was usable, for people.
    trouble: Option<String>,
}

impl<B: Broker> Requests<B> {
    /// Creates it without questions.
    pub(super) fn new(broker: B) -> Self {
        Self { broker, next_ticket: 1, outstanding: HashMap::new(), trouble: None }
    }

    /// Sends the messages of a component.
    pub(super) fn send(&mut self, outgoing: impl IntoIterator<Item = Outgoing>) {
        for out in outgoing {
            match out {
                Outgoing::Ask(question, request) => self.ask(question, request),
                Outgoing::Signal(signal) => {
                    self.broker.request(0, Request::Signal { payload: signal.encode().into() });
                }
            }
        }
    }

    fn ask(&mut self, question: Question, request: Request) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.outstanding.insert(ticket, question);
        self.broker.request(ticket, request);
    }

    /// Returns a generation that no consumer has used.
    pub(super) fn next_generation(&self) -> u64 {
        self.next_ticket
    }

    /// Returns the question of an answer; None if no component waits for it any more.
    pub(super) fn answered(
        &mut self,
        ticket: Ticket,
        error: Option<&BrokerError>,
    ) -> Option<Question> {
        let question = self.outstanding.remove(&ticket)?;
        if let Some(error) = error.filter(|error| **error != BrokerError::Conflict) {
            self.trouble = Some(format!("{question}: {error}"));
        }
        Some(question)
    }

    /// Forgets the outstanding questions that do not match.
    pub(super) fn retain(&mut self, keep: impl Fn(&Question) -> bool) {
        self.outstanding.retain(|_, question| keep(question));
    }

    /// Returns whether an outstanding question matches.
    pub(super) fn awaits(&self, matches: impl Fn(&Question) -> bool) -> bool {
        self.outstanding.values().any(matches)
    }

    /// Clears the last error, when the connection is usable.
    pub(super) fn no_trouble(&mut self) {
        self.trouble = None;
    }

    /// Returns the last error since the connection was usable, for people.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder(Vec<(Ticket, Request)>);

    impl Broker for Recorder {
        fn request(&mut self, ticket: Ticket, request: Request) {
            self.0.push((ticket, request));
        }

        fn max_payload_bytes(&self) -> usize {
            0
        }
    }

    fn asked() -> Requests<Recorder> {
        let mut requests = Requests::new(Recorder::default());
        requests.send([
            Outgoing::read(Question::Registry, "node-1".to_owned()),
            Outgoing::read(Question::Lease, "lease-1".to_owned()),
        ]);
        requests
    }

    #[test]
    fn an_answer_finds_its_question_once() {
        let mut requests = asked();
        assert_eq!(requests.answered(2, None), Some(Question::Lease));
        assert_eq!(requests.answered(2, None), None);
        assert_eq!(requests.answered(9, None), None);
    }

    #[test]
    fn a_forgotten_question_is_not_answered() {
        let mut requests = asked();
        requests.retain(|q| *q == Question::Lease);
        assert_eq!(requests.answered(1, None), None);
        assert!(requests.awaits(|q| *q == Question::Lease));
    }

    #[test]
    fn the_last_error_is_kept_but_a_lost_race_is_none() {
        let mut requests = asked();
        requests.answered(1, Some(&BrokerError::Conflict));
        assert_eq!(requests.trouble(), None);
        requests.answered(2, Some(&BrokerError::Refused("no permission".to_owned())));
        assert!(
            requests.trouble().is_some_and(|t| t.contains("lease") && t.contains("permission"))
        );
        requests.no_trouble();
        assert_eq!(requests.trouble(), None);
    }
}
