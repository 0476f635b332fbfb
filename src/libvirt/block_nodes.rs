//! The dirty bitmaps that are really there, whatever libvirt knows of: QEMU's of a domain that runs, or
//! those in the images of one that is off.
//!
//! ```text
//! disk -> layers, the image that is written to first -> bitmaps of each layer
//! ```
//!
//! Overlays have bitmaps of the same names as the images below them; what counts is the chain of them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Domain;
use super::xml::{self, Element};
use crate::error::{Error, Kind, Result};

/// A chain of images longer than this is a mistake: libvirt has its own limit at 200.
const MAX_LAYERS: usize = 256;

/// The bitmaps of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskBitmaps {
    /// The disk's target name.
    pub target: String,
    /// Its images, the one that is written to first.
    pub layers: Vec<Layer>,
}

/// One image of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layer {
    /// Path of the image, where it has one.
    pub image: Option<PathBuf>,
    /// QEMU's name of it, while the domain runs.
    pub node: Option<String>,
    /// The persistent bitmaps in it. Others belong to a job and end with it.
    pub bitmaps: Vec<Bitmap>,
}

/// A dirty bitmap in one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name: that of the checkpoint.
    pub name: String,
    /// What it is good for.
    pub condition: Condition,
}

/// What a bitmap is good for; the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// It has recorded every change.
    Good,
    /// A job uses it at the moment.
    Busy,
    /// It does not record.
    Disabled,
    /// It is only in an image below the one that is written to.
    Below,
    /// QEMU or its host died while it was open: it is useless for ever.
    Broken,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Busy => "in use by a job",
            Self::Disabled => "not recording",
            Self::Below => "only below an overlay",
            Self::Broken => "broken",
        })
    }
}

impl DiskBitmaps {
    /// Each bitmap of the disk by its name. One is good if it is good in the image that is written to and
    /// in those below it down to the first that lacks it: that is what libvirt asks for.
    pub fn conditions(&self) -> BTreeMap<String, Condition> {
        let mut all: BTreeMap<String, Condition> = BTreeMap::new();
        let mut deepest: BTreeMap<&str, usize> = BTreeMap::new();
        for (depth, layer) in self.layers.iter().enumerate() {
            for bitmap in &layer.bitmaps {
                // Of those in the layer above, none was missing so far.
                let follows = deepest.get(bitmap.name.as_str()).map_or(depth == 0, |above| above + 1 == depth);
                let condition = if follows { bitmap.condition } else { bitmap.condition.max(Condition::Below) };
                let known = all.entry(bitmap.name.clone()).or_insert(condition);
                *known = (*known).max(condition);
                deepest.insert(&bitmap.name, depth);
            }
        }
        all
    }
}

/// The bitmaps of a domain that runs, by disk, as QEMU has them this moment.
///
/// It asks QEMU's monitor (`query-named-block-nodes`, which changes nothing) past libvirt, as libvirt
/// itself does not tell. libvirt notes that somebody did: the domain is `tainted: custom-monitor`, says its
/// log, and so does `virsh dominfo` until it stops.
///
/// # Errors
/// By libvirt's code where that is refused (a read-only connection, another hypervisor);
/// [`Kind::Protocol`] for an answer that makes no sense.
pub fn of_running(domain: &Domain) -> Result<Vec<DiskBitmaps>> {
    let mut disks = disks(&domain.xml(false)?)?;
    let command = r#"{"execute":"query-named-block-nodes","arguments":{"flat":true}}"#;
    let answer = domain.during("ask QEMU for its bitmaps", domain.sys.monitor_command(command))?;
    let nodes = parse_nodes(&answer)?;
    for layer in disks.iter_mut().flat_map(|disk| &mut disk.layers) {
        let node = nodes.iter().find(|node| node.is_of(layer));
        if let Some(node) = node {
            layer.node = Some(node.name.clone());
            layer.bitmaps = node.dirty_bitmaps.iter().filter_map(NodeBitmap::to_bitmap).collect();
        }
    }
    Ok(disks)
}

/// The disks of a domain that runs with their images; of each layer the beginning of its node's name is
/// noted as [`Layer::node`].
fn disks(xml: &str) -> Result<Vec<DiskBitmaps>> {
    let document = xml::parse(xml, "domain")?;
    let devices = document.root.child("devices").into_iter().flat_map(Element::children);
    let mut disks = Vec::new();
    for disk in devices.filter(|device| device.name() == "disk") {
        if let Some(target) = disk.child("target").and_then(|target| target.attribute("dev")) {
            disks.push(DiskBitmaps { target, layers: layers(disk) });
        }
    }
    Ok(disks)
}

fn layers(disk: &Element<'_>) -> Vec<Layer> {
    let mut layers = Vec::new();
    let mut next = Some(disk);
    while let (Some(holder), true) = (next, layers.len() < MAX_LAYERS) {
        let Some(source) = holder.child("source") else { break };
        // The index stands at the source of the disk itself, and at the holder below it.
        let index = source.attribute("index").or_else(|| holder.attribute("index"));
        let path = source.attribute("file").or_else(|| source.attribute("dev"));
        layers.push(Layer {
            image: path.map(PathBuf::from),
            node: index.map(|index| format!("libvirt-{index}-")),
            bitmaps: Vec::new(),
        });
        next = holder.child("backingStore");
    }
    layers
}

fn parse_nodes(answer: &str) -> Result<Vec<Node>> {
    let bad = || Error::new(Kind::Protocol, "QEMU's list of block nodes makes no sense");
    let answer: Answer = serde_json::from_str(answer).map_err(|error| bad().caused_by(error))?;
    match (answer.nodes, answer.error) {
        (Some(nodes), _) => Ok(nodes),
        (None, Some(error)) => {
            Err(Error::unsupported("QEMU does not list its block nodes").caused_by(error.description))
        }
        (None, None) => Err(bad()),
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    nodes: Option<Vec<Node>>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "desc", default)]
    description: String,
}

/// A node of QEMU's graph of images, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Node {
    #[serde(rename = "node-name", default)]
    name: String,
    #[serde(default)]
    file: String,
    #[serde(rename = "dirty-bitmaps", default)]
    dirty_bitmaps: Vec<NodeBitmap>,
}

impl Node {
    /// By the name that libvirt gave it, which bears the index in the domain's XML; of an image without an
    /// index by its path. Bitmaps are in the node of the format, not in that of the file below it.
    fn is_of(&self, layer: &Layer) -> bool {
        let begin = layer.node.as_deref();
        let by_name = begin.is_some_and(|begin| self.name.starts_with(begin) && self.name.ends_with("format"));
        let by_path = || begin.is_none() && layer.image.as_deref().is_some_and(|path| path == Path::new(&self.file));
        by_name || (by_path() && !self.dirty_bitmaps.is_empty())
    }
}

#[derive(Debug, Deserialize)]
struct NodeBitmap {
    name: Option<String>,
    #[serde(default)]
    recording: bool,
    #[serde(default)]
    busy: bool,
    #[serde(default)]
    persistent: bool,
    #[serde(default)]
    inconsistent: bool,
}

impl NodeBitmap {
    fn to_bitmap(&self) -> Option<Bitmap> {
        let condition = match self {
            Self { inconsistent: true, .. } => Condition::Broken,
            Self { busy: true, .. } => Condition::Busy,
            Self { recording: false, .. } => Condition::Disabled,
            _ => Condition::Good,
        };
        self.name.clone().filter(|_| self.persistent).map(|name| Bitmap { name, condition })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain><name>d</name><devices>\
        <disk type='file'><source file='/i/over.qcow2' index='3'/><backingStore type='file' index='1'>\
        <source file='/i/base.qcow2'/><backingStore/></backingStore><target dev='vda'/></disk>\
        <disk type='file'><source file='/i/b.qcow2'/><target dev='vdb'/></disk>\
        <disk type='file' device='cdrom'><target dev='hda'/></disk></devices></domain>";

    fn answer(nodes: &str) -> String {
        format!(r#"{{"return":[{nodes}],"id":"libvirt-9"}}"#)
    }

    #[test]
    fn images_are_found_top_first() {
        let disks = disks(XML).unwrap();
        let layers = |index: usize| -> Vec<_> {
            disks[index].layers.iter().map(|layer| (layer.image.clone().unwrap(), layer.node.clone())).collect()
        };
        assert_eq!(
            layers(0),
            [
                (PathBuf::from("/i/over.qcow2"), Some("libvirt-3-".to_owned())),
                (PathBuf::from("/i/base.qcow2"), Some("libvirt-1-".to_owned()))
            ]
        );
        assert_eq!(layers(1), [(PathBuf::from("/i/b.qcow2"), None)]);
        assert_eq!((disks[2].target.as_str(), disks[2].layers.len()), ("hda", 0));
    }

    #[test]
    fn nodes_are_told_apart() {
        let text = answer(
            r#"{"node-name":"libvirt-1-storage","file":"/i/base.qcow2","drv":"file"},
               {"node-name":"libvirt-11-format","file":"/i/x","dirty-bitmaps":[]},
               {"node-name":"libvirt-1-format","file":"/i/base.qcow2","dirty-bitmaps":[
                {"name":"a","recording":true,"busy":false,"persistent":true,"count":0,"granularity":65536},
                {"name":"b","recording":false,"busy":false,"persistent":true,"inconsistent":true},
                {"name":"backup-vda","recording":false,"busy":true,"persistent":false},
                {"recording":true,"persistent":false}]}"#,
        );
        let nodes = parse_nodes(&text).unwrap();
        let layer = Layer { node: Some("libvirt-1-".into()), ..Layer::default() };
        let found: Vec<&Node> = nodes.iter().filter(|node| node.is_of(&layer)).collect();
        assert_eq!(found.len(), 1);
        let bitmaps: Vec<Bitmap> = found[0].dirty_bitmaps.iter().filter_map(NodeBitmap::to_bitmap).collect();
        let bitmap = |name: &str, condition| Bitmap { name: name.into(), condition };
        assert_eq!(bitmaps, [bitmap("a", Condition::Good), bitmap("b", Condition::Broken)]);
    }

    #[test]
    fn answers_that_make_no_sense_are_errors() {
        for text in ["", "{}", "[]", r#"{"return":{}}"#, r#"{"return":[{"dirty-bitmaps":[{"name":1}]}]}"#] {
            assert_eq!(parse_nodes(text).unwrap_err().kind(), Kind::Protocol, "{text}");
        }
        let refused = parse_nodes(r#"{"error":{"class":"CommandNotFound","desc":"no such command"}}"#).unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported);
        assert!(crate::error::report(&refused).contains("no such command"));
    }

    #[test]
    fn the_chain_of_a_bitmap_decides() {
        let layer = |bitmaps: &[(&str, Condition)]| Layer {
            bitmaps: bitmaps
                .iter()
                .map(|(name, condition)| Bitmap { name: (*name).into(), condition: *condition })
                .collect(),
            ..Layer::default()
        };
        let good = Condition::Good;
        let disk = DiskBitmaps {
            target: "vda".into(),
            layers: vec![
                layer(&[("both", good), ("top", good), ("broken below", good), ("gap", good)]),
                layer(&[("both", good), ("below", good), ("broken below", Condition::Broken)]),
                layer(&[("gap", good)]),
            ],
        };
        let conditions = disk.conditions();
        for (name, condition) in [
            ("both", good),
            ("top", good),
            ("below", Condition::Below),
            ("broken below", Condition::Broken),
            ("gap", Condition::Below),
        ] {
            assert_eq!(conditions[name], condition, "{name}");
        }
    }
}
