//! The set's directory: what `-o` says, with its codes replaced.
//!
//! | code | becomes |
//! |---|---|
//! | `%d`, `%u` | the domain's name, its UUID |
//! | `%Y` `%m` `%e` `%j` | year, month 01-12, day 01-31, day of the year 001-366 |
//! | `%F` | the date, as `%Y-%m-%e` |
//! | `%G` `%V` | year and week 01-53 of ISO 8601, which go together |
//! | `%H` `%M` `%S` | hour, minute, second of local time |
//! | `%%` | `%` |

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use jiff::Zoned;

use crate::error::{Error, Result};
use crate::libvirt::domain::Domain;

/// The directory that `template` names for `domain` at the time `now`.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for a code that there is not.
pub fn of(template: &Path, domain: &Domain, now: &Zoned) -> Result<PathBuf> {
    expand(template, domain.name(), domain.uuid(), now)
}

/// `template`, so that it gives every domain a directory of its own.
pub fn of_each(template: &Path) -> PathBuf {
    if codes(template).any(|code| matches!(code, Some(b'd' | b'u'))) {
        template.to_owned()
    } else {
        template.join("%d")
    }
}

/// A template that gives exactly `path`.
pub fn literal(path: &Path) -> PathBuf {
    let doubled = path.as_os_str().as_bytes().iter().flat_map(|byte| match byte {
        b'%' => vec![b'%', b'%'],
        other => vec![*other],
    });
    OsString::from_vec(doubled.collect()).into()
}

/// A domain's name as the name of a file: libvirt is not trusted to keep `/` and `..` out of it. No two
/// names become the same.
pub fn file_name(domain: &str) -> String {
    let mut name = String::new();
    for (at, c) in domain.char_indices() {
        let hidden = at == 0 && c == '.';
        if hidden || c == '/' || c == '%' || c.is_control() {
            let mut bytes = [0; 4];
            name.extend(c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")));
        } else {
            name.push(c);
        }
    }
    name
}

fn expand(template: &Path, domain: &str, uuid: &str, now: &Zoned) -> Result<PathBuf> {
    let mut path: Vec<u8> = Vec::new();
    let mut bytes = template.as_os_str().as_bytes().iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'%' {
            path.push(*byte);
            continue;
        }
        let part = match bytes.next() {
            Some(b'd') => file_name(domain),
            Some(b'u') => uuid.to_owned(),
            Some(b'%') => "%".to_owned(),
            Some(b'e') => now.strftime("%d").to_string(),
            Some(code @ (b'Y' | b'm' | b'F' | b'j' | b'G' | b'V' | b'H' | b'M' | b'S')) => {
                now.strftime(&format!("%{}", char::from(*code))).to_string()
            }
            other => {
                let code = other.map(|byte| char::from(*byte).escape_default().to_string()).unwrap_or_default();
                return Err(Error::usage(format!("%{code} is no code for a part of the directory's name"))
                    .path(template)
                    .hint(
                        "%d is the domain, %u its UUID; %Y %m %e %F %j %G %V %H %M %S are the time; %% is a percent \
                         sign",
                    ));
            }
        };
        path.extend_from_slice(part.as_bytes());
    }
    Ok(OsString::from_vec(path).into())
}

/// What stands behind every `%`.
fn codes(template: &Path) -> impl Iterator<Item = Option<u8>> {
    let mut bytes = template.as_os_str().as_bytes().iter();
    std::iter::from_fn(move || bytes.find(|byte| **byte == b'%').map(|_| bytes.next().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    const UUID: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

    fn expanded(template: &str, domain: &str) -> Result<PathBuf> {
        let now: Zoned = "2027-01-03T04:05:06[UTC]".parse().unwrap();
        expand(Path::new(template), domain, UUID, &now)
    }

    #[test]
    fn codes_are_replaced() {
        for (template, path) in [
            ("/b/%d/%Y-%m", "/b/web/2027-01"),
            ("/b/%u", &format!("/b/{UUID}")),
            // The Sunday belongs to the last week of the year before.
            ("%F %e %j %G-W%V", "2027-01-03 03 003 2026-W53"),
            ("%H%M%S", "040506"),
            ("100%%d", "100%d"),
            ("", ""),
        ] {
            assert_eq!(expanded(template, "web").unwrap(), Path::new(path), "{template}");
        }
    }

    #[test]
    fn unknown_codes_are_refused() {
        for template in ["/b/%x", "/b/%", "%D", "/b/%\u{e4}"] {
            let error = expanded(template, "web").unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{template}");
            assert!(error.hint_text().unwrap().contains("%%"));
        }
    }

    #[test]
    fn names_stay_in_the_directory_and_apart() {
        for (name, file) in [
            ("..", "%2E."),
            (".", "%2E"),
            ("../../etc", "%2E.%2F..%2Fetc"),
            ("a/b", "a%2Fb"),
            ("a%2Fb", "a%252Fb"),
            ("a\nb", "a%0Ab"),
            ("web 1 \u{e4}.x", "web 1 \u{e4}.x"),
        ] {
            assert_eq!(file_name(name), file);
            assert_eq!(expanded("/b/%d/x", name).unwrap(), Path::new("/b").join(file).join("x"));
        }
    }

    #[test]
    fn every_domain_gets_its_own() {
        for (template, each) in [("/b", "/b/%d"), ("/b/%d", "/b/%d"), ("/%u/x", "/%u/x"), ("/%%d", "/%%d/%d")] {
            assert_eq!(of_each(Path::new(template)), Path::new(each));
        }
        let odd = Path::new("/b/100%d %%");
        assert_eq!(expanded(literal(odd).to_str().unwrap(), "web").unwrap(), odd);
    }
}
