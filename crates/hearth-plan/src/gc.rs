//! What is garbage: the reference graph. Pure.
//!
//! ```text
//!  VM ──► image ──► its device in the pool, its blobs
//!   └───► volume ─► the snapshot or image that it was made of
//!  snapshot, data volume: somebody asked for it, so it is a root
//! ```
//! What can be reached from a root is never garbage, whatever it is called and however old it is.
//! A kind of objects that could not be looked at in full makes nothing garbage that it could refer to.

pub mod schedule;

use std::collections::{BTreeMap, BTreeSet};

/// Who refers to what. `N` names an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph<N> {
    refers: BTreeMap<N, BTreeSet<N>>,
    roots: BTreeSet<N>,
    unknown: Vec<String>,
}

impl<N> Default for Graph<N> {
    fn default() -> Self {
        Self {
            refers: BTreeMap::new(),
            roots: BTreeSet::new(),
            unknown: Vec::new(),
        }
    }
}

impl<N: Ord + Clone> Graph<N> {
    /// An object that is there.
    pub fn add(&mut self, node: N) {
        self.refers.entry(node).or_default();
    }

    /// An object that is there because somebody wants it.
    pub fn root(&mut self, node: N) {
        self.add(node.clone());
        self.roots.insert(node);
    }

    /// One needs the other. The other need not be there.
    pub fn refer(&mut self, from: N, to: N) {
        self.refers.entry(from).or_default().insert(to);
    }

    /// Something that may refer to any of them could not be looked at.
    pub fn cannot_tell(&mut self, why: impl Into<String>) {
        self.unknown.push(why.into());
    }

    /// What could not be looked at.
    #[must_use]
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// All that roots lead to, themselves included.
    #[must_use]
    pub fn reachable(&self) -> BTreeSet<N> {
        let mut found = BTreeSet::new();
        let mut next: Vec<&N> = self.roots.iter().collect();
        while let Some(node) = next.pop() {
            if found.insert(node.clone()) {
                next.extend(self.refers.get(node).into_iter().flatten());
            }
        }
        found
    }

    /// What is there and nobody needs. Nothing, when something that may need it could not be
    /// looked at.
    #[must_use]
    pub fn garbage(&self) -> BTreeSet<N> {
        if !self.unknown.is_empty() {
            return BTreeSet::new();
        }
        let reachable = self.reachable();
        let all = self.refers.keys();
        all.filter(|node| !reachable.contains(node))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chain_stays_whole_and_what_hangs_on_nothing_goes() {
        let mut graph = Graph::default();
        graph.root("vm");
        graph.refer("vm", "volume");
        graph.refer("volume", "snapshot");
        graph.refer("snapshot", "image");
        graph.refer("image", "layer");
        graph.add("layer");
        graph.add("old image");
        graph.refer("old image", "layer");
        graph.refer("old image", "old layer");
        graph.add("old layer");
        assert_eq!(graph.garbage(), BTreeSet::from(["old image", "old layer"]));
        graph.cannot_tell("templates: the disk does not answer");
        assert!(graph.garbage().is_empty());
    }

    fn graph() -> impl Strategy<Value = Graph<u8>> {
        let nodes = prop::collection::vec(0..24_u8, 0..24);
        let roots = prop::collection::vec(0..24_u8, 0..4);
        let edges = prop::collection::vec((0..24_u8, 0..24_u8), 0..40);
        (nodes, roots, edges).prop_map(|(nodes, roots, edges)| {
            let mut graph = Graph::default();
            for node in nodes {
                graph.add(node);
            }
            for root in roots {
                graph.root(root);
            }
            for (from, to) in edges {
                graph.refer(from, to);
            }
            graph
        })
    }

    proptest! {
        #[test]
        fn nothing_that_can_be_reached_is_garbage_and_everything_else_is(graph in graph()) {
            let (reachable, garbage) = (graph.reachable(), graph.garbage());
            prop_assert!(reachable.is_disjoint(&garbage));
            for node in graph.refers.keys() {
                prop_assert!(reachable.contains(node) != garbage.contains(node));
            }
            // No object that stays refers to one that goes.
            for (from, to) in &graph.refers {
                if !garbage.contains(from) {
                    prop_assert!(to.is_disjoint(&garbage));
                }
            }
        }

        #[test]
        fn one_more_reference_never_makes_garbage(graph in graph(), from in 0..24_u8, to in 0..24_u8) {
            let before = graph.garbage();
            let known = graph.refers.contains_key(&from);
            let mut more = graph;
            more.refer(from, to);
            let new: Vec<u8> = more.garbage().difference(&before).copied().collect();
            prop_assert!(new.is_empty() || (!known && new == [from]));
        }
    }
}
