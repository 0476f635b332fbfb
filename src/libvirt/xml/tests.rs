//! Bad documents first; then that nothing is lost or changed on the way through.

use super::parse::{MAX_ATTRIBUTES, MAX_DEPTH};
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
