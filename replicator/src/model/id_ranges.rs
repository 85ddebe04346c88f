//! Which numbers a node may give to the rows of an AUTOINCREMENT table.
//!
//! Arrives: the settings `[ids]`. Leaves: blocks of numbers that no other node uses. Owns: two
//! nodes with different slots never get a common block. Pure.
//!
//! A fixed range for each node does not work in SQLite: the next id is one more than the greater of
//! `sqlite_sequence` and the greatest id *in the table* (`OP_NewRowid` in vdbe.c), and the table
//! holds the rows of the node with the highest range. So the numbers are cut into blocks that
//! belong to the slots in turn, and a node always counts in a block of its own above every number
//! it knows.

/// The settings of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRanges {
    /// This node's slot, below `nodes`.
    pub slot: i64,
    /// The number of slots.
    pub nodes: i64,
    /// Numbers in a block.
    pub block: i64,
}

/// A block of numbers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdBlock {
    /// The least number.
    pub first: i64,
    /// The greatest number.
    pub last: i64,
}

impl IdRanges {
    /// Returns this node's next block above `used`, the greatest number in use. None at the end of
    /// the 64-bit numbers.
    pub fn next_block(&self, used: i64) -> Option<IdBlock> {
        let begun = used.max(0).checked_add(self.block - 1)? / self.block;
        let ahead = (self.slot - begun).rem_euclid(self.nodes);
        let start = begun.checked_add(ahead)?.checked_mul(self.block)?;
        Some(IdBlock { first: start.checked_add(1)?, last: start.checked_add(self.block)? })
    }

    /// Returns whether the block is one of this node's, and has the next number with some reserve:
    /// a transaction of the application is seen only after it has taken its numbers.
    pub fn suffices(&self, block: IdBlock, used: i64) -> bool {
        let is_own = block.last - block.first == self.block - 1
            && (block.first - 1) / self.block % self.nodes == self.slot;
        is_own && used >= block.first - 1 && block.last - used >= self.block / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: i64 = 3;

    fn slot(slot: i64) -> IdRanges {
        IdRanges { slot, nodes: NODES, block: 100 }
    }

    #[test]
    fn a_block_lies_above_the_used_numbers_and_belongs_to_one_slot() {
        for used in [-5, 0, 1, 99, 100, 101, 299, 300, 301, 12_345] {
            let blocks: Vec<IdBlock> =
                (0..NODES).map(|s| slot(s).next_block(used).unwrap()).collect();
            for (s, block) in blocks.iter().enumerate() {
                assert!(block.first > used && block.last == block.first + 99, "{used} {block:?}");
                assert!(block.first - 1 <= used.max(0) + NODES * 100, "{used} {block:?}");
                assert!(slot(s as i64).suffices(*block, block.first - 1));
                assert_eq!(blocks.iter().filter(|b| *b == block).count(), 1);
                assert!(!slot((s as i64 + 1) % NODES).suffices(*block, block.first - 1));
            }
        }
    }

    #[test]
    fn a_block_suffices_until_half_of_it_is_used() {
        let block = slot(1).next_block(0).unwrap();
        assert_eq!(block, IdBlock { first: 101, last: 200 });
        for (used, suffices) in
            [(99, false), (100, true), (150, true), (151, false), (200, false), (900, false)]
        {
            assert_eq!(slot(1).suffices(block, used), suffices, "{used}");
        }
        assert!(!IdRanges { block: 50, ..slot(1) }.suffices(block, 100), "other settings");
    }

    #[test]
    fn the_numbers_end() {
        assert_eq!(slot(0).next_block(i64::MAX), None);
        assert_eq!(slot(0).next_block(i64::MAX - 150), None);
    }
}
