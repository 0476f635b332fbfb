//! A part of the disk, resolved a second time and the other way round: a restore asks the newest stream first; here
//! the oldest is laid down first and the others over it. That both agree is part of what `--deep` proves.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;

use crate::chain_device::{ChainDevice, Content};
use crate::error::{Error, Result};
use crate::extent::Kind;
use crate::stream::reader::StreamReader;

/// By first byte: the end, and the id of the stream that has the content; none where it is zero.
type Map = BTreeMap<u64, (u64, Option<u64>)>;

/// One part of the disk, at as many points as are asked for.
#[derive(Debug)]
pub struct Overlays {
    window: Range<u64>,
    /// By the id of the newest stream: what a stream builds on is the same at every point.
    known: HashMap<u64, Rc<Map>>,
}

impl Overlays {
    /// Of `window`.
    pub fn of(window: Range<u64>) -> Self {
        Self { window, known: HashMap::new() }
    }

    /// Proves that `chain` resolves `range`, which is the window as far as the disk reaches, without a gap, and
    /// as laying its streams over each other does.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt), with the place in the disk.
    pub fn compare(&mut self, chain: &ChainDevice, range: Range<u64>, parts: &[(Range<u64>, Content)]) -> Result<()> {
        let wrong = |what: &str, offset| Err(Error::corrupt(what.to_owned()).disk(chain.target()).at(offset));
        let laid = self.map(chain, 0);
        let mut position = range.start;
        for (part, content) in parts {
            if part.start != position || part.end <= part.start || part.end > range.end {
                return wrong("the chain leaves a gap, or overlaps", position);
            }
            let stream = match content {
                Content::Zero => None,
                Content::Layer(layer) => match chain.layers().get(*layer) {
                    Some(reader) => Some(reader.id()),
                    None => return wrong("the chain resolves to a stream that it does not have", position),
                },
            };
            while position < part.end {
                match laid.range(..=position).next_back() {
                    Some((_, (end, known))) if *end > position && *known == stream => position = part.end.min(*end),
                    _ => return wrong("the chain resolves to other streams than laid over each other", position),
                }
            }
        }
        if position == range.end { Ok(()) } else { wrong("no stream of the chain has the content", position) }
    }

    /// What the streams of `chain` from `layer` on give, laid over each other.
    fn map(&mut self, chain: &ChainDevice, layer: usize) -> Rc<Map> {
        let layers = chain.layers();
        // From the oldest that is not known up: chains are longer than stacks are deep.
        let known = (layer..layers.len()).find(|number| self.known.contains_key(&layers[*number].id()));
        let mut below = known.map_or_else(Rc::default, |number| Rc::clone(&self.known[&layers[number].id()]));
        for reader in layers[layer..known.unwrap_or(layers.len())].iter().rev() {
            let mut map = Map::clone(&below);
            lay(&mut map, reader, &self.window);
            below = Rc::new(map);
            self.known.insert(reader.id(), Rc::clone(&below));
        }
        below
    }
}

/// Lays a stream over what is below.
fn lay(map: &mut Map, reader: &StreamReader, window: &Range<u64>) {
    // What lay behind a smaller disk's end is gone.
    paint(map, reader.meta().virtual_size.clamp(window.start, window.end)..window.end, None);
    reader.visit(window.clone(), &mut |extent| match extent.kind() {
        Kind::Data => paint(map, extent.range(), Some(reader.id())),
        Kind::Zero => paint(map, extent.range(), None),
        Kind::Clean => {}
    });
}

fn paint(map: &mut Map, range: Range<u64>, stream: Option<u64>) {
    if range.is_empty() {
        return;
    }
    for edge in [range.start, range.end] {
        if let Some((start, (end, known))) = map.range(..edge).next_back().map(|(start, value)| (*start, *value)) {
            if end > edge {
                map.insert(start, (edge, known));
                map.insert(edge, (end, known));
            }
        }
    }
    let covered: Vec<u64> = map.range(range.clone()).map(|(start, _)| *start).collect();
    for start in covered {
        map.remove(&start);
    }
    map.insert(range.start, (range.end, stream));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_last_is_seen() {
        let mut map = Map::new();
        for (range, stream) in [(0..100, Some(1)), (10..20, None), (15..40, Some(2)), (0..5, Some(3)), (90..100, None)]
        {
            paint(&mut map, range, stream);
        }
        let seen: Vec<_> = map.into_iter().map(|(start, (end, stream))| (start..end, stream)).collect();
        let expected =
            [(0..5, Some(3)), (5..10, Some(1)), (10..15, None), (15..40, Some(2)), (40..90, Some(1)), (90..100, None)];
        assert_eq!(seen, expected);
    }
}
