//! A file system that remembers what it has promised to keep, fed with the calls of a run.
//!
//! Of a file, what counts is the content at its last `fsync`; of a directory, the names at its last
//! `fsync`. Everything else a power loss may take, or may not: real file systems promise no more.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::trace::{Call, Event, Trace};

type Id = usize;

#[derive(Debug, Clone)]
enum Node {
    File { content: Vec<u8>, durable: Vec<u8>, position: usize },
    Directory { names: BTreeMap<String, Id>, durable: BTreeMap<String, Id> },
}

/// The tree below one directory.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    /// Syncs that have begun, by their call: what they promise when they end well.
    syncing: HashMap<usize, (Id, Node)>,
    /// Writes that have begun, by their call.
    writing: HashMap<usize, Id>,
}

/// A tree of files: their contents by path; directories have none.
pub type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What a crash leaves of things that are not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing is lost: the process was killed.
    None,
    /// All is lost.
    Everything,
    /// New names are there, their contents are not.
    Contents,
    /// As before, the length is there, too: the rest reads as zeroes.
    Zeroes,
    /// Contents are there, new names are not.
    Names,
}

impl Disk {
    /// The present content of `root`, all of it durable.
    pub fn of(root: &Path) -> Disk {
        let mut disk =
            Disk { root: root.to_owned(), nodes: Vec::new(), syncing: HashMap::new(), writing: HashMap::new() };
        disk.load(root);
        disk
    }

    fn load(&mut self, path: &Path) -> Id {
        let id = self.nodes.len();
        if path.is_dir() {
            self.nodes.push(Node::Directory { names: BTreeMap::new(), durable: BTreeMap::new() });
            let mut found = BTreeMap::new();
            for entry in std::fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                found.insert(entry.file_name().into_string().unwrap(), self.load(&entry.path()));
            }
            self.nodes[id] = Node::Directory { names: found.clone(), durable: found };
        } else {
            let content = std::fs::read(path).unwrap();
            self.nodes.push(Node::File { durable: content.clone(), content, position: 0 });
        }
        id
    }

    /// Applies one event; whether it changed what a crash would leave.
    pub fn apply(&mut self, trace: &Trace, event: Event) -> bool {
        match event {
            Event::Begin(number) => {
                self.begin(number, &trace.calls[number]);
                false
            }
            Event::End(number) => self.end(number, &trace.calls[number]),
        }
    }

    fn begin(&mut self, number: usize, call: &Call) {
        match call.name.as_str() {
            "fsync" | "fdatasync" => {
                if let Some(id) = self.of_descriptor(call, 0) {
                    self.syncing.insert(number, (id, self.nodes[id].clone()));
                }
            }
            "write" | "pwrite64" | "pwritev" => {
                if let Some(id) = self.of_descriptor(call, 0) {
                    self.writing.insert(number, id);
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, number: usize, call: &Call) -> bool {
        self.writing.remove(&number);
        let synced = self.syncing.remove(&number);
        if call.result < 0 {
            return false;
        }
        match call.name.as_str() {
            "openat" => return self.open(call),
            "write" | "pwrite64" | "pwritev" => {
                let Some(id) = self.of_descriptor(call, 0) else { return false };
                let bytes = if call.name == "pwritev" { call.slices(1) } else { call.bytes(1) };
                let bytes = &bytes[..usize::try_from(call.result).unwrap()];
                let at = (call.name != "write").then(|| call.number(3) as usize);
                let Node::File { content, position, .. } = &mut self.nodes[id] else { panic!("{call:?}") };
                let start = at.unwrap_or(*position);
                content.resize(content.len().max(start + bytes.len()), 0);
                content[start..start + bytes.len()].copy_from_slice(bytes);
                if at.is_none() {
                    *position = start + bytes.len();
                }
            }
            "lseek" => {
                let Some(id) = self.of_descriptor(call, 0) else { return false };
                let Node::File { position, .. } = &mut self.nodes[id] else { return false };
                *position = usize::try_from(call.result).unwrap();
                return false;
            }
            "ftruncate" => {
                let Some(id) = self.of_descriptor(call, 0) else { return false };
                let Node::File { content, .. } = &mut self.nodes[id] else { panic!("{call:?}") };
                content.resize(call.number(1) as usize, 0);
            }
            "fsync" | "fdatasync" => {
                let Some((id, at_begin)) = synced else { return false };
                match (&mut self.nodes[id], at_begin) {
                    (Node::File { durable, .. }, Node::File { content, .. }) => *durable = content,
                    (Node::Directory { durable, .. }, Node::Directory { names, .. }) => *durable = names,
                    _ => panic!("{call:?}"),
                }
            }
            "mkdir" => {
                let id = self.nodes.len();
                self.nodes.push(Node::Directory { names: BTreeMap::new(), durable: BTreeMap::new() });
                return self.enter(&call.path(0), id);
            }
            "rename" => return self.rename(&call.path(0), &call.path(1)),
            "renameat" | "renameat2" => return self.rename(&call.path(1), &call.path(3)),
            "unlink" | "rmdir" => return self.leave(&call.path(0)).is_some(),
            "unlinkat" => return self.leave(&call.path(1)).is_some(),
            _ => {
                // Paths and descriptors of another call: none may be ours, the model would be wrong.
                let root = self.root.to_str().unwrap();
                assert!(!call.arguments.iter().any(|argument| argument.contains(root)), "unknown: {call:?}");
                return false;
            }
        }
        true
    }

    fn open(&mut self, call: &Call) -> bool {
        let path = call.path(1);
        if call.has_flag(2, "O_TMPFILE") || !path.starts_with(&self.root) {
            return false;
        }
        match self.find(&path) {
            Some(id) => {
                if let Node::File { content, position, .. } = &mut self.nodes[id] {
                    *position = 0;
                    assert!(!call.has_flag(2, "O_APPEND"), "unknown: {call:?}");
                    if call.has_flag(2, "O_TRUNC") {
                        content.clear();
                        return true;
                    }
                }
                false
            }
            None => {
                assert!(call.has_flag(2, "O_CREAT"), "{call:?}");
                let id = self.nodes.len();
                self.nodes.push(Node::File { content: Vec::new(), durable: Vec::new(), position: 0 });
                self.enter(&path, id)
            }
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> bool {
        match self.leave(from) {
            Some(id) => self.enter(to, id),
            None => false,
        }
    }

    fn enter(&mut self, path: &Path, id: Id) -> bool {
        let Some((parent, name)) = self.place(path) else { return false };
        let Node::Directory { names, .. } = &mut self.nodes[parent] else { panic!("{}", path.display()) };
        names.insert(name, id);
        true
    }

    fn leave(&mut self, path: &Path) -> Option<Id> {
        let (parent, name) = self.place(path)?;
        let Node::Directory { names, .. } = &mut self.nodes[parent] else { panic!("{}", path.display()) };
        names.remove(&name)
    }

    /// The directory of `path` and its name there; none for what is not below the root.
    fn place(&self, path: &Path) -> Option<(Id, String)> {
        path.starts_with(&self.root).then_some(())?;
        Some((self.find(path.parent()?)?, path.file_name()?.to_str()?.to_owned()))
    }

    fn find(&self, path: &Path) -> Option<Id> {
        let mut id = 0;
        for part in path.strip_prefix(&self.root).ok()? {
            let Node::Directory { names, .. } = &self.nodes[id] else { return None };
            id = *names.get(part.to_str()?)?;
        }
        Some(id)
    }

    fn of_descriptor(&self, call: &Call, number: usize) -> Option<Id> {
        let path = call.descriptor(number)?;
        let id = self.find(&path);
        assert!(id.is_some() || !path.starts_with(&self.root), "unknown file: {} {}", call.name, path.display());
        id
    }

    /// What is at `path` would survive: its content, or all below it, and its way from the root.
    pub fn is_durable(&self, path: &Path) -> bool {
        let mut id = 0;
        for part in path.strip_prefix(&self.root).unwrap() {
            let Node::Directory { names, durable } = &self.nodes[id] else { return false };
            let name = part.to_str().unwrap();
            match (names.get(name), durable.get(name)) {
                (Some(now), Some(kept)) if now == kept => id = *now,
                _ => return false,
            }
        }
        match &self.nodes[id] {
            Node::File { content, durable, .. } => {
                content == durable && !self.writing.values().any(|writing| *writing == id)
            }
            Node::Directory { names, durable } => {
                names == durable && names.keys().all(|name| self.is_durable(&path.join(name)))
            }
        }
    }

    /// All files now, by their paths.
    pub fn files(&self) -> Vec<PathBuf> {
        let tree = self.tree(Loss::None);
        tree.into_iter().filter(|(_, content)| content.is_some()).map(|(path, _)| path).collect()
    }

    /// What a crash now would leave.
    pub fn tree(&self, loss: Loss) -> Tree {
        let mut tree = Tree::new();
        self.collect(0, &self.root.clone(), loss, &mut tree);
        tree
    }

    fn collect(&self, id: Id, path: &Path, loss: Loss, tree: &mut Tree) {
        match &self.nodes[id] {
            Node::File { content, durable, .. } => {
                let left = match loss {
                    Loss::None | Loss::Names => content.clone(),
                    Loss::Everything | Loss::Contents => durable.clone(),
                    Loss::Zeroes if content == durable => content.clone(),
                    Loss::Zeroes => {
                        let mut left = durable.clone();
                        left.resize(content.len(), 0);
                        left
                    }
                };
                tree.insert(path.to_owned(), Some(left));
            }
            Node::Directory { names, durable } => {
                tree.insert(path.to_owned(), None);
                let left = match loss {
                    Loss::None | Loss::Contents | Loss::Zeroes => names,
                    Loss::Everything | Loss::Names => durable,
                };
                for (name, id) in left {
                    self.collect(*id, &path.join(name), loss, tree);
                }
            }
        }
    }
}
