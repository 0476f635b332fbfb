//! A lossless tree of an XML document: what is not changed is written as it was read.
//!
//! Documents come from daemons and from backup sets, so nothing in them is trusted: size, depth and
//! counts are bounded, document types are refused (with them every entity that is not one of XML's own
//! five), and what has been parsed holds no attribute or text that can't be decoded.

use std::borrow::Cow;
use std::path::Path;

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesEnd, BytesRef, BytesStart, BytesText, Event};
use quick_xml::name::QName;

use crate::error::{Error, Kind, Result};

/// libvirt sends no string longer than this over a connection.
pub const MAX_SIZE: usize = 4 << 20;
/// Domain XML nests about ten deep, backing chains two levels per image (libvirt allows 200 images).
const MAX_DEPTH: usize = 512;
/// Far above any real document, and keeps a hostile one under 100 MiB of memory.
const MAX_ELEMENTS: usize = 200_000;
/// The check for duplicates compares each attribute with all before it.
const MAX_ATTRIBUTES: usize = 64;

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_documents_are_refused() {
        let deep = "<a>".repeat(MAX_DEPTH + 1);
        let wide = format!("<a {}/>", (0..=MAX_ATTRIBUTES).map(|i| format!("x{i}='' ")).collect::<String>());
        let bomb = "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>";
        for text in [
            "",
            "x",
            "<a",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><a/>",
            "<a>&nope;</a>",
            "<a b='&nope;'/>",
            "<a b='1' b='2'/>",
            "<a b=1/>",
            "<b/>",
            "<a/>x",
            "<a>&#xFFFFFFFF;</a>",
            "< />",
            bomb,
            &deep,
            &wide,
        ] {
            let error = parse(text, "a").unwrap_err();
            assert_eq!(error.kind(), Kind::Protocol, "{text:?}");
        }
        let long = format!("<a>{}</a>", " ".repeat(MAX_SIZE));
        assert!(parse(&long, "a").is_err());
    }

    #[test]
    fn untouched_documents_are_written_as_they_were() {
        let text = "<?xml version='1.0'?>\n<!-- a -->\n<a x=\"'\" y='\"&#10;' >\n  <b/>t &amp; &#x41;<![CDATA[<]]>\n <c>\n</c></a>\n";
        assert_eq!(parse(text, "a").unwrap().to_text().unwrap(), text);
    }

    #[test]
    fn text_is_decoded() {
        let document = parse("<a>x&amp;&#65;<b>no</b><![CDATA[<y>]]></a>", "a").unwrap();
        assert_eq!(document.root.text(), "x&A<y>");
    }

    #[test]
    fn changing_one_attribute_keeps_the_others() {
        let mut document = parse("<a x='\"' y=\"'\" z='&lt;'/>", "a").unwrap();
        document.root.set_attribute("y", "new\n").unwrap();
        document.root.remove_attribute("z").unwrap();
        let text = document.to_text().unwrap();
        let again = parse(&text, "a").unwrap();
        assert_eq!(again.root.attribute("x").as_deref(), Some("\""));
        assert_eq!(again.root.attribute("y").as_deref(), Some("new\n"));
        assert_eq!(again.root.attribute("z"), None);
    }

    #[test]
    fn removal_leaves_no_blank_line() {
        let mut document = parse("<a>\n  <b/>\n  <c/>\n</a>", "a").unwrap();
        assert!(document.root.remove_children("b"));
        assert_eq!(document.to_text().unwrap(), "<a>\n  <c/>\n</a>");
    }

    #[test]
    fn control_characters_are_refused() {
        assert_eq!(Element::new("a").with("b", "\x01").unwrap_err().kind(), Kind::Usage);
    }

    proptest! {
        #[test]
        fn any_value_comes_back(value in "[^\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\u{fffe}\\u{ffff}]*") {
            let text = Element::new("a").with("b", &value)?.with_text(&value)?.into_text()?;
            let document = parse(&text, "a")?;
            prop_assert_eq!(document.root.attribute("b"), Some(value.clone()));
            prop_assert_eq!(document.root.text(), value);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[<>/a= '\"&;#x\\[\\]!?-]{0,60}") {
            if let Ok(document) = parse(&text, "a") {
                let written = document.to_text()?;
                prop_assert!(parse(&written, "a").is_ok(), "{written:?}");
            }
        }
    }
}
