//! Reading a document, with bounds on everything.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::{Document, Element, Node, bad, resolve};
use crate::error::{Error, Result};

/// libvirt sends no string longer than this over a connection.
pub const MAX_SIZE: usize = 4 << 20;
/// Domain XML nests about ten deep, backing chains two levels per image (libvirt allows 200 images).
pub(super) const MAX_DEPTH: usize = 512;
/// Far above any real document, and keeps a hostile one under 100 MiB of memory.
const MAX_ELEMENTS: usize = 200_000;
/// The check for duplicates compares each attribute with all before it.
pub(super) const MAX_ATTRIBUTES: usize = 64;

/// Parses a document whose root is called `root`.
///
/// # Errors
/// [`Kind::Protocol`] with the offset if it isn't one, or is larger or deeper than any real one.
pub fn parse<'a>(text: &'a str, root: &str) -> Result<Document<'a>> {
    if text.len() > MAX_SIZE {
        return Err(bad(format!("XML of {} bytes is longer than libvirt's limit of {MAX_SIZE}", text.len())));
    }
    let document = Parser { reader: Reader::from_str(text), elements: 0 }.document()?;
    if document.root.name() != root {
        return Err(bad(format!("not a <{root}> document: its root is <{}>", printable(document.root.name()))));
    }
    Ok(document)
}

/// A name of the document in a message: short, and without control characters.
fn printable(name: &str) -> String {
    name.chars().take(40).flat_map(char::escape_debug).collect()
}

struct Parser<'a> {
    reader: Reader<&'a [u8]>,
    elements: usize,
}

impl<'a> Parser<'a> {
    fn document(mut self) -> Result<Document<'a>> {
        let (mut before, mut root, mut after) = (Vec::new(), None, Vec::new());
        loop {
            match self.next()? {
                Event::Eof => break,
                Event::Start(tag) if root.is_none() => root = Some(self.tree(tag)?),
                Event::Empty(tag) if root.is_none() => root = Some(self.open(tag)?),
                Event::Text(text) if !text.iter().all(u8::is_ascii_whitespace) => {
                    return Err(self.fail("text outside of the root element"));
                }
                other @ (Event::Text(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_)) => match root {
                    None => before.push(other),
                    Some(_) => after.push(other),
                },
                _ => return Err(self.fail("more than one root element")),
            }
        }
        let root = root.ok_or_else(|| self.fail("no root element"))?;
        Ok(Document { before, root, after })
    }

    fn next(&mut self) -> Result<Event<'a>> {
        match self.reader.read_event() {
            Ok(Event::DocType(_)) => Err(self.fail("a document type, which libvirt never writes")),
            Ok(event) => Ok(event),
            Err(error) => Err(bad("not well-formed XML").at(self.reader.error_position()).caused_by(error)),
        }
    }

    fn fail(&self, message: &str) -> Error {
        bad(format!("not a valid XML document: {message}")).at(self.reader.buffer_position())
    }

    /// The element whose start tag has been read, up to its end tag. Not recursive: depth is the peer's.
    fn tree(&mut self, tag: BytesStart<'a>) -> Result<Element<'a>> {
        let mut open = vec![self.open(tag)?];
        loop {
            let node = match self.next()? {
                Event::Start(tag) => {
                    if open.len() >= MAX_DEPTH {
                        return Err(self.fail("elements nested too deep"));
                    }
                    let element = self.open(tag)?;
                    open.push(element);
                    continue;
                }
                Event::End(_) => match open.pop() {
                    Some(element) if open.is_empty() => return Ok(element),
                    Some(element) => Node::Element(element),
                    None => return Err(self.fail("an end tag without its start")),
                },
                Event::Empty(tag) => Node::Element(self.open(tag)?),
                Event::Eof => return Err(self.fail("it ends inside of an element")),
                other => {
                    self.check_text(&other)?;
                    Node::Other(other)
                }
            };
            match open.last_mut() {
                Some(parent) => parent.nodes.push(node),
                None => return Err(self.fail("content outside of the root element")),
            }
        }
    }

    /// An element without content, its name and attributes proven readable.
    fn open(&mut self, tag: BytesStart<'a>) -> Result<Element<'a>> {
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(self.fail("too many elements"));
        }
        if tag.name().as_ref().is_empty() {
            return Err(self.fail("an element without a name"));
        }
        for (index, attribute) in tag.attributes().enumerate() {
            if index >= MAX_ATTRIBUTES {
                return Err(self.fail("too many attributes on one element"));
            }
            let attribute = attribute.map_err(|error| self.fail("attributes").caused_by(error))?;
            attribute.unescape_value().map_err(|error| self.fail("an attribute's value").caused_by(error))?;
        }
        Ok(Element { tag, nodes: Vec::new() })
    }

    fn check_text(&self, event: &Event<'_>) -> Result<()> {
        if let Event::GeneralRef(reference) = event {
            resolve(reference).ok_or_else(|| self.fail("an entity that is not one of XML's own"))?;
        }
        Ok(())
    }
}
