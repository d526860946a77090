//! Any sequence of operations gives what a model in memory gives.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Root, Tar};

/// Something with a name; folders are what has something below it, or is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File(String),
    Link(String),
    Folder(BTreeMap<String, Node>),
}

#[derive(Debug, Clone)]
enum Op {
    File(Vec<String>, String),
    Link(Vec<String>, String),
    Folder(Vec<String>),
    Whiteout(Vec<String>),
}

fn path() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|parts| parts.into_iter().map(str::to_owned).collect())
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (path(), "[a-z]{0,8}").prop_map(|(path, data)| Op::File(path, data)),
        1 => (path(), "none[a-z]").prop_map(|(path, target)| Op::Link(path, target)),
        2 => path().prop_map(Op::Folder),
        2 => path().prop_map(Op::Whiteout),
    ]
}

/// The folder that a path's last part is in, made on the way; none if a file is in the way.
fn folder<'a>(
    mut at: &'a mut BTreeMap<String, Node>,
    path: &[String],
    make: bool,
) -> Option<&'a mut BTreeMap<String, Node>> {
    for part in &path[..path.len() - 1] {
        if make && !at.contains_key(part) {
            at.insert(part.clone(), Node::Folder(BTreeMap::new()));
        }
        match at.get_mut(part)? {
            Node::Folder(inner) => at = inner,
            _ => return None,
        }
    }
    Some(at)
}

/// One layer on the model and as a tar. Operations that a real layer could not have (a file
/// below a file, a whiteout after something of the same layer) are left out of both.
fn apply(model: &mut BTreeMap<String, Node>, ops: &[Op]) -> Tar {
    let mut tar = Tar::new();
    let whiteouts = ops.iter().filter(|op| matches!(op, Op::Whiteout(_)));
    let others = ops.iter().filter(|op| !matches!(op, Op::Whiteout(_)));
    for op in whiteouts.chain(others) {
        let (Op::File(path, _) | Op::Link(path, _) | Op::Folder(path) | Op::Whiteout(path)) = op;
        let (full, name) = (path.join("/"), path.last().unwrap().clone());
        // On a copy, because a refused operation must not make folders.
        let mut changed = model.clone();
        let Some(at) = folder(&mut changed, path, !matches!(op, Op::Whiteout(_))) else {
            continue;
        };
        tar = match op {
            Op::File(_, data) => {
                at.insert(name, Node::File(data.clone()));
                tar.file(&full, data)
            }
            Op::Link(_, target) => {
                at.insert(name, Node::Link(target.clone()));
                tar.symlink(&full, target)
            }
            Op::Folder(_) => {
                let node = at.entry(name).or_insert(Node::Folder(BTreeMap::new()));
                if !matches!(node, Node::Folder(_)) {
                    *node = Node::Folder(BTreeMap::new());
                }
                tar.dir(&full)
            }
            Op::Whiteout(_) => {
                at.remove(&name);
                let mut hidden = path.clone();
                *hidden.last_mut().unwrap() = format!(".wh.{name}");
                tar.file(&hidden.join("/"), "")
            }
        };
        *model = changed;
    }
    tar
}

fn read(path: &std::path::Path) -> BTreeMap<String, Node> {
    let mut nodes = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        let node = if kind.is_dir() {
            Node::Folder(read(&entry.path()))
        } else if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).unwrap();
            Node::Link(target.into_os_string().into_string().unwrap())
        } else {
            Node::File(std::fs::read_to_string(entry.path()).unwrap())
        };
        nodes.insert(entry.file_name().into_string().unwrap(), node);
    }
    nodes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn layers_equal_the_model(layers in prop::collection::vec(prop::collection::vec(op(), 0..12), 1..4)) {
        let mut model = BTreeMap::new();
        // A first layer, so that whiteouts have something below them.
        let mut tars = vec![apply(&mut model, &[Op::File(vec!["base".to_owned()], "x".to_owned())])];
        tars.extend(layers.iter().map(|ops| apply(&mut model, ops)));
        let root = Root::new();
        root.unpack(&tars).unwrap();
        prop_assert_eq!(read(&root.path("")), model);
    }
}
