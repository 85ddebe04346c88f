use super::*;
use std::convert::Infallible;

const NOW: Now = Now { unix_ms: 0, mono_ms: 100_000 };

fn at(mono_ms: u64) -> Now {
    Now { mono_ms, ..NOW }
}

/// Returns a question of node 3 about a message of `origin` in stream 1.
fn question(gap: i64, origin: u64, since_ms: i64) -> PeerQuestion {
    let id = QuestionId { asker: 3, gap, noticed_ms: 5 };
    PeerQuestion { id, origin, shard: 1, position: StreamSeq(7), since_ms }
}

fn answers() -> Answers {
    Answers::new(&NodeConfig::for_tests(1))
}

fn yes(_: u32, _: StreamSeq) -> bool {
    true
}

fn no(_: u32, _: StreamSeq) -> bool {
    false
}

/// Starts and logs all answerable questions, with log entry 10 as the last.
fn begin_and_log(answers: &mut Answers, now: Now, reached: bool, whole: bool) {
    let reach = move |_: u32, _: StreamSeq| reached;
    let is_whole = move |_: u32| Ok::<_, Infallible>(whole);
    let answerable = answers.answerable(now, reach).unwrap();
    let mut done = AnswersDone::default();
    answers.begin(answerable, reach, is_whole, &mut done).unwrap();
    assert!(answers.committed(done, 0).is_empty(), "nothing is logged yet");
    let mut done = AnswersDone::default();
    answers.logged(10, is_whole, &mut done).unwrap();
    assert!(answers.committed(done, 9).is_empty(), "nothing is published yet");
}

fn publish(answers: &mut Answers) -> Vec<bool> {
    let signals = answers.committed(AnswersDone::default(), 10);
    let whole = |s: &Signal| matches!(s, Signal::Answered { asker: 3, by: 1, whole: true, .. });
    signals.iter().map(whole).collect()
}

#[test]
fn who_answers_when() {
    for (origin, misses, reached, wait_ms) in [
        (1, false, true, 0),
        (2, false, true, ANSWER_DELAY_MS + 1),
        (2, true, true, 2 * ANSWER_DELAY_MS + 1),
        (2, false, false, ANSWER_DELAY_MS + 1 + UNREACHED_DELAY_MS),
        (1, false, false, UNREACHED_DELAY_MS),
    ] {
        let mut answers = answers();
        assert!(answers.receive(question(1, origin, 0), misses, NOW).is_none());
        let deadline = answers.deadline(move |_, _| reached);
        assert_eq!(deadline - NOW.mono_ms, wait_ms, "origin {origin}, {misses}, {reached}");
    }
}

#[test]
fn an_answer_leaves_when_its_rows_are_published() {
    let mut answers = answers();
    answers.receive(question(1, 1, 0), false, NOW);
    begin_and_log(&mut answers, NOW, true, true);
    assert_eq!(publish(&mut answers), [true]);
    assert!(answers.is_empty());
}

#[test]
fn it_is_whole_only_if_nothing_is_missing_up_to_the_askers_position() {
    for (reached, whole, expected) in
        [(true, true, true), (true, false, false), (false, true, false)]
    {
        let mut answers = answers();
        answers.receive(question(1, 1, 0), false, NOW);
        begin_and_log(&mut answers, at(NOW.mono_ms + UNREACHED_DELAY_MS), reached, whole);
        assert_eq!(publish(&mut answers), [expected]);
    }
}

#[test]
fn questions_that_come_close_together_are_answered_together() {
    let mut answers = answers();
    answers.receive(question(1, 1, 50), false, NOW);
    answers.receive(question(2, 2, 20), false, NOW);
    let answerable = answers.answerable(NOW, yes).unwrap();
    assert_eq!((answerable.since_ms, answerable.askers), (20, vec![3, 3]));
}

#[test]
fn nothing_is_answered_before_its_time() {
    let mut answers = answers();
    assert_eq!(answers.deadline(yes), u64::MAX);
    answers.receive(question(1, 2, 0), false, NOW);
    assert!(answers.answerable(NOW, yes).is_none());
    assert!(answers.answerable(at(NOW.mono_ms + ANSWER_DELAY_MS + 1), no).is_none());
}

#[test]
fn a_whole_answer_of_another_makes_ours_needless() {
    let mut answers = answers();
    answers.receive(question(1, 2, 0), false, NOW);
    answers.answered_by_another(question(1, 2, 0).id, false);
    assert!(!answers.is_empty());
    answers.answered_by_another(question(1, 2, 0).id, true);
    assert!(answers.is_empty());
}

#[test]
fn a_repeated_question_gets_the_answer_again_but_a_partial_one_may_improve() {
    for (whole, misses, again) in [(true, false, true), (false, true, true), (false, false, false)]
    {
        let mut answers = answers();
        answers.receive(question(1, 1, 0), false, NOW);
        begin_and_log(&mut answers, NOW, true, whole);
        publish(&mut answers);
        let signal = answers.receive(question(1, 1, 0), misses, NOW);
        assert_eq!(signal.is_some(), again, "{whole} {misses}");
    }
}
