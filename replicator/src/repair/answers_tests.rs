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
    assert!(
        matches!(answers.committed(done, 0, now)[..], [Signal::Answering { .. }]),
        "nothing is logged yet"
    );
    let mut done = AnswersDone::default();
    answers.logged(10, is_whole, &mut done).unwrap();
    assert!(answers.committed(done, 9, now).is_empty(), "nothing is published yet");
}

fn publish(answers: &mut Answers) -> Vec<bool> {
    let signals = answers.committed(AnswersDone::default(), 10, NOW);
    let whole = |s: &Signal| matches!(s, Signal::Answered { asker: 3, by: 1, whole: true, .. });
    signals.iter().map(whole).collect()
}

#[test]
fn who_answers_when() {
    for (origin, misses, reached, wait_ms) in [
        (1, false, true, 0),
        (2, false, true, ANSWER_DELAY_MS),
        (2, true, true, 2 * ANSWER_DELAY_MS),
        (2, false, false, ANSWER_DELAY_MS + UNREACHED_DELAY_MS),
        (1, false, false, UNREACHED_DELAY_MS),
    ] {
        let mut answers = answers();
        assert!(answers.receive(question(1, origin, 0), misses, 0, NOW).is_none());
        let deadline = answers.deadline(move |_, _| reached);
        assert_eq!(deadline - NOW.mono_ms, wait_ms, "origin {origin}, {misses}, {reached}");
    }
}

#[test]
fn an_answer_leaves_when_its_rows_are_published() {
    let mut answers = answers();
    answers.receive(question(1, 1, 0), false, 0, NOW);
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
        answers.receive(question(1, 1, 0), false, 0, NOW);
        begin_and_log(&mut answers, at(NOW.mono_ms + UNREACHED_DELAY_MS), reached, whole);
        assert_eq!(publish(&mut answers), [expected]);
    }
}

#[test]
fn questions_that_come_close_together_are_answered_together() {
    let mut answers = answers();
    answers.receive(question(1, 1, 50), false, 0, NOW);
    answers.receive(question(2, 2, 20), false, 0, NOW);
    let answerable = answers.answerable(NOW, yes).unwrap();
    assert_eq!((answerable.since_ms, answerable.askers), (20, vec![3, 3]));
}

#[test]
fn nothing_is_answered_before_its_time() {
    let mut answers = answers();
    assert_eq!(answers.deadline(yes), u64::MAX);
    answers.receive(question(1, 2, 0), false, 0, NOW);
    assert!(answers.answerable(NOW, yes).is_none());
    assert!(answers.answerable(at(NOW.mono_ms + ANSWER_DELAY_MS), no).is_none());
}

#[test]
fn a_whole_answer_of_another_makes_ours_needless() {
    let mut answers = answers();
    answers.receive(question(1, 2, 0), false, 0, NOW);
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
        answers.receive(question(1, 1, 0), false, 0, NOW);
        begin_and_log(&mut answers, NOW, true, whole);
        publish(&mut answers);
        let signal = answers.receive(question(1, 1, 0), misses, 0, NOW);
        assert_eq!(signal.is_some(), again, "{whole} {misses}");
    }
}

#[test]
fn nodes_take_turns_and_wait_while_another_answers() {
    let mut answers = answers();
    let asked = question(1, 2, 0);
    answers.receive(asked, false, 3, NOW);
    let due_ms = NOW.mono_ms + ANSWER_DELAY_MS + 3 * TURN_MS;
    assert_eq!(answers.deadline(yes), due_ms);
    answers.announced(asked.id, 5, false, at(due_ms - 1));
    assert_eq!(answers.deadline(yes), due_ms, "node 5 misses something itself");
    answers.announced(asked.id, 5, true, at(due_ms - 1));
    let waits_ms = ANNOUNCED_MS + 3 * TURN_MS;
    assert_eq!(answers.deadline(yes), due_ms - 1 + waits_ms);
    answers.saw_message(NodeId(6), at(due_ms + 10_000));
    assert_eq!(answers.deadline(yes), due_ms - 1 + waits_ms, "node 6 answers nothing");
    for ms in (10_000..2 * DEFERRED_MS_MAX).step_by(10_000) {
        answers.saw_message(NodeId(5), at(due_ms + ms));
    }
    assert_eq!(answers.deadline(yes), NOW.mono_ms + DEFERRED_MS_MAX, "not without end");
}

#[test]
fn questions_are_bounded_and_a_later_one_about_a_gap_replaces_the_earlier() {
    let mut answers = answers();
    for gap in 0..100 {
        answers.receive(question(gap, 1, 0), false, 0, NOW);
    }
    assert_eq!(answers.waiting.len(), WAITING_PER_STREAM_MAX);
    let mut later = question(3, 1, 0);
    later.id.noticed_ms = 9;
    answers.receive(later, false, 0, NOW);
    assert_eq!(answers.waiting.len(), WAITING_PER_STREAM_MAX);
    assert!(answers.waiting.iter().any(|a| a.question.id == later.id));
    for asker in 100..1_000 {
        let mut forged = question(1, 2, 0);
        forged.id.asker = asker;
        answers.receive(forged, false, 0, NOW);
    }
    assert_eq!(answers.waiting.len(), WAITING_MAX);
}

#[test]
fn republications_are_apart() {
    let mut answers = answers();
    answers.receive(question(1, 1, 0), false, 0, NOW);
    begin_and_log(&mut answers, NOW, true, true);
    publish(&mut answers);
    answers.receive(question(2, 1, 0), false, 0, NOW);
    assert_eq!(answers.deadline(yes), NOW.mono_ms + REST_MS);
}
