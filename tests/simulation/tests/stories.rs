//! Seeds that once failed, each with its story. `plan.rs` makes the worlds. If it changes, a seed
//! means another world, so every story also names the code that prevents the failure.

use harmonylite_simulation::run_seed;

/// The seeds, and the failure of each.
const STORIES: &[(u64, &str)] = &[
    (
        8,
        "A node joined while the stream had two messages. The stream was then recreated, and \
        never became as long again, so joining waited for a position that never came. Joining now \
        ends at the present end of the stream (`Join::checked`).",
    ),
    (
        53,
        "The second of two power cuts took a database back to an incarnation that it had left, \
        and the newest batch on its subject was of an unknown incarnation. The database continued \
        under the old site, whose batch numbers the others had already seen \
        (`BrokerAnswers::is_ahead_of`).",
    ),
    (
        68,
        "The application wrote between a power cut and the broker's first answer. These writes \
        got versions of the old incarnation, before the new one started \
        (`Verify::knows_incarnation`, `Transaction::begin_incarnation`).",
    ),
    (
        74,
        "A log was absorbed in pieces. One ended between the entry that REPLACE had removed a row \
        and the one that it was written again: the row existed, so the removal did not count, and \
        the row got a lower version than the one that was published (`rewritten_later`).",
    ),
    (155, "As 68, with other tables."),
    (
        123,
        "A power cut came between the parts of a batch and took its content with it. Nobody sent \
        that batch again or published anything else, so its first part held up cursors and the \
        end of joining without end (`abandon_idle`).",
    ),
    (
        165,
        "The application held the write lock while inbound only looked for work. The process \
        ended instead of retrying.",
    ),
    (
        280,
        "All messages expired before a node that had gone back in time consumed them, and nobody \
        wrote any more. Only the next message would have shown the hole (`note_expired`).",
    ),
    (
        2325,
        "A transaction was sent in pieces, and the first piece had the content of the last one \
        under an older version. After a power cut the same version had two contents \
        (`drop_changed_later`).",
    ),
    (
        237,
        "Outbound took a go-ahead of the previous connection. The acknowledgement of its next \
        batch replaced the anchor that would have shown the loss of the previous batch \
        (`Outbound::hold_still`, `State::Settling`).",
    ),
    (
        307,
        "A message in the backlog of a held origin was destroyed, before the cursor, where the \
        node did not look for holes (`ShardStream::deliver`).",
    ),
    (
        954,
        "The last message of the stream was destroyed while a node joined, and nobody wrote any \
        more. Joining waited for its position without end (`Join::deadline`).",
    ),
    (
        1023,
        "The backlog of an origin was complete, and its next batch was in the same transaction. \
        That batch counted as held and was skipped, although nobody held its origin any more \
        (`advance`).",
    ),
    (
        10913,
        "A node consumed over a new connection before it knew of that connection. The message \
        that it applied had the position at which its cursor had lost its own message, so the \
        check accepted the new cursor (`ShardStream::began`).",
    ),
    (12029, "As 10913, with three nodes."),
    (4894, "As 2325, in a table with a unique column."),
    (
        43814,
        "The only message was destroyed. Its publisher had not joined yet and did not answer. The \
        two other nodes had never seen the message, answered each other that they had published \
        all rows, and stopped asking (`end_what_all_answered`, `is_whole`).",
    ),
    (23253, "As 43814, with four nodes and an expired message."),
    (
        25457,
        "As 43814: the answer to an earlier question ended a gap that had grown since \
        (`Gap::key`).",
    ),
    (
        51994,
        "The broker forgot the first message, gave its position to another, and lost that one \
        too. To the publisher of the first message it looked expired \
        (`StreamState::kept_since_ns`). The next batch of the other node was the first one that \
        it saw, and did not make it ask for earlier batches (`note_origin`).",
    ),
    (48333, "As 51994, but nobody wrote any more."),
    (
        130889,
        "The broker lost its registry with the list of members, and the first message of the new \
        stream. A node that joined then was alone on the list, and concluded that all members had \
        answered. Every reader of the list now adds the origins that it knows \
        (`Gaps::members_read`), every receiver of a question checks that it is on the list, and a \
        node believes late that it is alone (`ALONE_ASKS`).",
    ),
    (
        109956,
        "A node's own message had come back and was not processed yet when the connection ended. \
        The broker forgot it and gave its position to another message. Processing it during the \
        check moved the cursor past the other message, and the rest of that batch was skipped as \
        an orphan. The check now waits until all earlier deliveries are processed \
        (`Verify::may_check`).",
    ),
    (
        177843,
        "A question arrived twice, before and after the stream was recreated. The node waited for \
        the position of the first one, which the new stream never reached, and answered nobody \
        (`Answers::receive`).",
    ),
];

#[test]
fn what_failed_once_does_not_fail_again() {
    for (seed, story) in STORIES {
        let failure = run_seed(*seed, false).failure;
        assert_eq!(failure, None, "seed {seed}: {story}");
    }
}
