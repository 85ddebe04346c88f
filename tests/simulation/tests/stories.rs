//! Seeds that once failed, each with its story. The worlds are made by `plan.rs`: where that
//! changes, a seed means another world, so every story also names what in the code must not come
//! back.

use harmonylite_simulation::run_seed;

/// (seed, what had happened)
const STORIES: &[(u64, &str)] = &[
    (
        8,
        "A node joined while the stream had two messages; the stream was deleted and made again, \
        and never grew as long: joining \
         waited for a position that never came. The end of joining is where the stream ends now \
         (`set_join_targets`).",
    ),
    (
        53,
        "Two power cuts: the second brought a database back to a life that it had left, and the \
        newest batch on its subject was \
         of a life that it had never heard of. It went on under the old site, whose batch numbers \
         others had seen \
         (`is_behind_broker`).",
    ),
    (
        68,
        "What the application wrote between a power cut and the broker's first answer got its \
        version in the name of the old \
         life, before the new one began (`knows_its_life`, `begin_life`).",
    ),
    (155, "As 68, with other tables."),
    (
        123,
        "A power cut between the parts of a batch whose content was lost with it: nobody ever \
        began that batch anew, nothing else \
         was published, and the first part held cursors and the end of joining for ever \
         (`abandon_idle`).",
    ),
    (
        165,
        "The application held the write lock while inbound only looked whether there is work; the \
        process ended instead of trying again.",
    ),
    (
        280,
        "All messages expired before a node that had gone back in time consumed them, and nobody \
        wrote any more: the hole was \
         seen only by the next message (`repair`, `expired`).",
    ),
    (
        2325,
        "A transaction that went out in pieces: the first piece carried the content of the last \
        under an older version. After a \
         power cut the same version stood for two contents (`drop_changed_later`).",
    ),
    (
        237,
        "Outbound took a go-ahead of the connection before, and the acknowledgement of the next \
        batch took the place of the anchor \
         that would have shown the loss of the one before (`Outbound::obey`, `Link::Settling`).",
    ),
    (
        307,
        "A message in the backlog of an origin that was held for its schema was destroyed, below \
        the cursor, where no hole was \
         looked for (`ShardStream::deliver`).",
    ),
    (
        954,
        "The last message of the stream was destroyed while a node joined, and nobody wrote any \
        more: joining waited for its \
         position for ever (`join_deadline`).",
    ),
    (
        1023,
        "An origin's backlog was through, and its next batch was in the same transaction: it was \
        taken for one of a held origin and \
         passed over, and nobody held it any more (`advance`).",
    ),
    (
        10913,
        "A node consumed over a new connection before it had heard of it; the message that it \
        applied stood where its old cursor had \
         lost its own, and the check found the new cursor in order (`ShardStream::began`).",
    ),
    (12029, "As 10913, with three nodes."),
    (4894, "As 2325, in a table with a unique column."),
    (
        43814,
        "The only message was destroyed. Its publisher had not joined yet and answered nothing; \
        the two other nodes, which had never seen \
         it, answered each other that they had published all, and stopped asking \
         (`end_what_all_answered`, `is_whole`).",
    ),
    (23253, "As 43814, with four nodes and an expired message."),
    (
        25457,
        "As 43814: an answer to what was missing earlier ended what was missing by then \
        (`Gap::key`).",
    ),
    (
        51994,
        "The broker forgot the first message, gave its position to another and lost that one too: \
        to the node whose own message it had \
         been, it looked expired (`StreamState::kept_since_ns`); and the next batch of the other \
         node, whose first it was to see, did not \
         make it ask for those before (`note_origin`).",
    ),
    (48333, "As 51994, but nobody wrote any more."),
    (
        130889,
        "The broker lost its registry, and with it the roll, and the first message of the new \
        stream: a node that joined then was alone \
         on the roll and took it that everybody had answered. Whoever reads the roll puts back \
         the origins that it knows \
         (`roll_read`), whoever hears a question looks whether it is on it, and being alone is \
         believed late (`ALONE_ASKS`).",
    ),
    (
        109956,
        "A node's own message had come back and was not dealt with yet when the connection went; \
        the broker forgot it and gave its position to \
         another. Dealing with it during the check moved the cursor over the other, whose batch \
         was then skipped as begun in \
         the middle. The check waits until nothing of before is left (`tick`, `items_are_due`).",
    ),
    (
        177843,
        "A question was heard twice, before and after the stream was made again: the node waited \
        for the position of the first, \
         which the new stream never reached, and answered nobody (`signalled`).",
    ),
];

#[test]
fn what_failed_once_does_not_fail_again() {
    for (seed, story) in STORIES {
        let failure = run_seed(*seed, false).failure;
        assert_eq!(failure, None, "seed {seed}: {story}");
    }
}
