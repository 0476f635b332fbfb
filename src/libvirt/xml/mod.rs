//! A lossless tree of an XML document: what is not changed is written as it was read.
//!
//! Documents come from daemons and from backup sets, so nothing in them is trusted: size, depth and
//! counts are bounded, document types are refused (with them every entity that is not one of XML's own
//! five), and what has been parsed holds no attribute or text that can't be decoded.

mod parse;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::path::Path;

use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesEnd, BytesRef, BytesStart, BytesText, Event};
use quick_xml::name::QName;

pub use parse::{MAX_SIZE, parse};

use crate::error::{Error, Kind, Result};

/// A document: its root, and comments and the like around it.
#[derive(Debug)]
pub struct Document<'a> {
    before: Vec<Event<'a>>,
    /// The root element.
    pub root: Element<'a>,
    after: Vec<Event<'a>>,
}

/// An element with all that is in it.
#[derive(Debug, Clone)]
pub struct Element<'a> {
    tag: BytesStart<'a>,
    nodes: Vec<Node<'a>>,
}

#[derive(Debug, Clone)]
enum Node<'a> {
    Element(Element<'a>),
    Other(Event<'a>),
}

/// `path` as it is written into XML.
///
/// # Errors
/// [`Kind::Unsupported`] for one that is not UTF-8, which libvirt can't be told.
pub fn path_text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::unsupported("libvirt takes only UTF-8 paths").path(path))
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Kind::Protocol, message)
}

/// What a reference in text stands for.
fn resolve(reference: &BytesRef<'_>) -> Option<Cow<'static, str>> {
    if let Ok(Some(character)) = reference.resolve_char_ref() {
        return Some(Cow::Owned(character.to_string()));
    }
    reference.decode().ok().and_then(|name| resolve_predefined_entity(&name)).map(Cow::Borrowed)
}

impl Document<'_> {
    /// The document as text.
    ///
    /// # Errors
    /// [`Kind::Io`] from the writer, which has no cause to fail in memory.
    pub fn to_text(&self) -> Result<String> {
        let mut writer = quick_xml::Writer::new(Vec::new());
        let mut write = |event: Event<'_>| writer.write_event(event).map_err(|error| Error::io("write XML", error));
        self.before.iter().try_for_each(|event| write(event.borrow()))?;
        self.root.write(&mut write)?;
        self.after.iter().try_for_each(|event| write(event.borrow()))?;
        String::from_utf8(writer.into_inner()).map_err(|error| bad("XML is not UTF-8").caused_by(error))
    }
}

impl<'a> Element<'a> {
    /// An empty element; `name` is one of ours.
    pub fn new(name: &'static str) -> Self {
        Self { tag: BytesStart::new(name), nodes: Vec::new() }
    }

    /// The name, with its prefix if it has one.
    pub fn name(&self) -> &str {
        // The document was text, so its parts are; a name of ours is too.
        std::str::from_utf8(self.tag.name().into_inner()).unwrap_or_default()
    }

    /// The value of an attribute.
    pub fn attribute(&self, key: &str) -> Option<String> {
        // Parsing has proven that all attributes can be read.
        let attribute = self.tag.attributes().flatten().find(|attribute| attribute.key == QName(key.as_bytes()))?;
        attribute.unescape_value().ok().map(Cow::into_owned)
    }

    /// The child elements.
    pub fn children(&self) -> impl Iterator<Item = &Element<'a>> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Other(_) => None,
        })
    }

    /// The child elements, to be changed.
    pub fn children_mut(&mut self) -> impl Iterator<Item = &mut Element<'a>> {
        self.nodes.iter_mut().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Other(_) => None,
        })
    }

    /// The first child element of that name.
    pub fn child(&self, name: &str) -> Option<&Element<'a>> {
        self.children().find(|child| child.name() == name)
    }

    /// The first child element of that name, to be changed.
    pub fn child_mut(&mut self, name: &str) -> Option<&mut Element<'a>> {
        self.children_mut().find(|child| child.name() == name)
    }

    /// The text right inside this element, without that of its children.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            match node {
                Node::Other(Event::Text(part)) => text.push_str(&part.decode().unwrap_or_default()),
                Node::Other(Event::CData(part)) => text.push_str(&part.decode().unwrap_or_default()),
                Node::Other(Event::GeneralRef(part)) => text.push_str(&resolve(part).unwrap_or_default()),
                _ => {}
            }
        }
        text
    }

    /// Text of the first child of that name.
    pub fn child_text(&self, name: &str) -> Option<String> {
        self.child(name).map(Element::text)
    }

    /// Sets an attribute, in its place if there is one of that name.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a value with a character that XML can't carry.
    pub fn set_attribute(&mut self, key: &str, value: &str) -> Result<()> {
        let value = escape(value)?;
        let mut tag = BytesStart::new(self.name().to_owned());
        let mut found = false;
        for attribute in self.tag.attributes().flatten() {
            if attribute.key == QName(key.as_bytes()) {
                push_raw(&mut tag, key, &value);
                found = true;
            } else if let (Ok(name), Ok(old)) =
                (std::str::from_utf8(attribute.key.into_inner()), attribute.unescape_value())
            {
                // Decoded and escaped anew, as the quotes around it may be the other ones.
                push_raw(&mut tag, name, &escape(&old)?);
            }
        }
        if !found {
            push_raw(&mut tag, key, &value);
        }
        self.tag = tag;
        Ok(())
    }

    /// Takes an attribute away, if it is there.
    pub fn remove_attribute(&mut self, key: &str) -> Result<()> {
        let mut tag = BytesStart::new(self.name().to_owned());
        for attribute in self.tag.attributes().flatten() {
            if let (Ok(name), Ok(old)) = (std::str::from_utf8(attribute.key.into_inner()), attribute.unescape_value()) {
                if name != key {
                    push_raw(&mut tag, name, &escape(&old)?);
                }
            }
        }
        self.tag = tag;
        Ok(())
    }

    /// The element with one attribute more.
    ///
    /// # Errors
    /// As [`Element::set_attribute`].
    pub fn with(mut self, key: &str, value: &str) -> Result<Self> {
        self.set_attribute(key, value)?;
        Ok(self)
    }

    /// The element with one child more.
    #[must_use]
    pub fn with_child(mut self, child: Element<'a>) -> Self {
        self.nodes.push(Node::Element(child));
        self
    }

    /// The element with this text in place of its content.
    ///
    /// # Errors
    /// As [`Element::set_attribute`].
    pub fn with_text(mut self, text: &str) -> Result<Self> {
        self.set_text(text)?;
        Ok(self)
    }

    /// Puts `text` in place of all content.
    ///
    /// # Errors
    /// As [`Element::set_attribute`].
    pub fn set_text(&mut self, text: &str) -> Result<()> {
        self.nodes.clear();
        if !text.is_empty() {
            self.nodes.push(Node::Other(Event::Text(BytesText::from_escaped(escape(text)?))));
        }
        Ok(())
    }

    /// Puts `child` in place of the first child of its name, or in front of all others.
    pub fn put_child(&mut self, child: Element<'a>) {
        let same = |node: &Node<'_>| matches!(node, Node::Element(old) if old.name() == child.name());
        match self.nodes.iter().position(same) {
            Some(index) => self.nodes[index] = Node::Element(child),
            None => {
                let indent = self.nodes.first().filter(|node| is_blank(node)).cloned();
                self.nodes.insert(0, Node::Element(child));
                if let Some(indent) = indent {
                    self.nodes.insert(0, indent);
                }
            }
        }
    }

    /// Keeps the child elements that `keep` wants; the white space in front of one that goes, goes too.
    pub fn retain_children(&mut self, mut keep: impl FnMut(&Element<'a>) -> bool) {
        let (mut kept, mut removed) = (Vec::with_capacity(self.nodes.len()), false);
        for node in self.nodes.drain(..) {
            match &node {
                Node::Element(element) if !keep(element) => {
                    if kept.last().is_some_and(is_blank) {
                        kept.pop();
                    }
                    removed = true;
                }
                _ => kept.push(node),
            }
        }
        if removed && kept.iter().all(is_blank) {
            kept.clear();
        }
        self.nodes = kept;
    }

    /// Takes all child elements of that name away; returns whether there were any.
    pub fn remove_children(&mut self, name: &str) -> bool {
        let found = self.child(name).is_some();
        if found {
            self.retain_children(|child| child.name() != name);
        }
        found
    }

    /// The element as a document of its own.
    ///
    /// # Errors
    /// As [`Document::to_text`].
    pub fn into_text(self) -> Result<String> {
        Document { before: Vec::new(), root: self, after: Vec::new() }.to_text()
    }

    fn write(&self, write: &mut impl FnMut(Event<'_>) -> Result<()>) -> Result<()> {
        if self.nodes.is_empty() {
            return write(Event::Empty(self.tag.borrow()));
        }
        write(Event::Start(self.tag.borrow()))?;
        for node in &self.nodes {
            match node {
                Node::Element(element) => element.write(write)?,
                Node::Other(event) => write(event.borrow())?,
            }
        }
        write(Event::End(BytesEnd::new(self.name())))
    }
}

fn is_blank(node: &Node<'_>) -> bool {
    matches!(node, Node::Other(Event::Text(text)) if text.iter().all(u8::is_ascii_whitespace))
}

fn push_raw(tag: &mut BytesStart<'_>, key: &str, escaped: &str) {
    tag.push_attribute(Attribute { key: QName(key.as_bytes()), value: Cow::Borrowed(escaped.as_bytes()) });
}

/// `text` for an attribute or as text, such that a reader gets it back as it is: line ends too, which
/// would be read as spaces.
fn escape(text: &str) -> Result<String> {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\t' => escaped.push_str("&#9;"),
            '\n' => escaped.push_str("&#10;"),
            '\r' => escaped.push_str("&#13;"),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => {
                return Err(Error::usage(format!("{text:?} has a character that XML can't carry")));
            }
            _ => escaped.push(character),
        }
    }
    Ok(escaped)
}
