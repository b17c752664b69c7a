//! What a power cut leaves of a volume.

use super::{Change, Inode, Node, ROOT, Volume};
use crate::io::sim::content::{Content, Survival};
use crate::io::sim::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};

impl Volume {
    /// The power fails: the disk as the next boot finds it.
    pub(in crate::io::sim) fn power_cut(&mut self, rng: &mut Rng) {
        let survival = match rng.below(6) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            2 => Survival::Until(rng.below(self.seq + 1)),
            _ => Survival::Any,
        };
        for change in self.surviving_changes(survival, rng) {
            self.write_names(&change);
        }
        let mut found = BTreeMap::new();
        let mut todo = vec![ROOT];
        while let Some(inode) = todo.pop() {
            match self.nodes.remove(&inode) {
                Some(Node::Dir { durable, .. }) => {
                    todo.extend(durable.values().copied());
                    found.insert(inode, Node::Dir { now: durable.clone(), durable });
                }
                Some(Node::File { content, modified, .. }) => {
                    let content = content.power_cut(survival, rng);
                    found.insert(inode, Node::File { content, handles: 0, modified });
                }
                None => {}
            }
        }
        self.nodes = found;
        self.nameless.clear();
        self.used_blocks = self.contents().map(|content| content.blocks().count()).sum();
    }

    fn contents(&self) -> impl Iterator<Item = &Content> {
        self.nodes.values().filter_map(|node| match node {
            Node::File { content, .. } => Some(content),
            Node::Dir { .. } => None,
        })
    }

    /// The pending changes that had reached the disk; none is pending any more.
    fn surviving_changes(&mut self, survival: Survival, rng: &mut Rng) -> Vec<Change> {
        let per_name = rng.coin();
        let odds = rng.below(9);
        // Once a change is lost, so are all later ones of the same name, or directory.
        let mut lost: BTreeSet<(Inode, String)> = BTreeSet::new();
        let mut survivors = Vec::new();
        for change in self.changes.drain(..) {
            let keys = change.assigns.iter().map(|assign| {
                (assign.dir, if per_name { assign.name.clone() } else { String::new() })
            });
            let keys: Vec<_> = keys.collect();
            let survives = match survival {
                Survival::Nothing => false,
                Survival::Everything => true,
                Survival::Until(seq) => change.seq <= seq,
                Survival::Any => !keys.iter().any(|key| lost.contains(key)) && rng.below(8) < odds,
            };
            if survives {
                survivors.push(change);
            } else {
                lost.extend(keys);
            }
        }
        survivors
    }
}
