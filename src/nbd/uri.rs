//! Builds NBD URIs that mean exactly the given server and export, whatever bytes are in their names.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest path of a Unix socket on Linux in bytes, without the closing NUL (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;

/// The URI of `export` behind a Unix `socket`: `nbd+unix:///EXPORT?socket=PATH`.
pub fn unix(socket: &Path, export: &str) -> String {
    let mut uri = String::from("nbd+unix:///");
    encode(&mut uri, export.as_bytes(), false);
    uri.push_str("?socket=");
    encode(&mut uri, socket.as_os_str().as_bytes(), true);
    uri
}

/// The URI of `export` at a TCP port: `nbd://HOST:PORT/EXPORT`.
pub fn tcp(host: &str, port: u16, export: &str) -> String {
    network("nbd", host, port, export)
}

/// As [`tcp`], with TLS and never without. `certificates` is a directory with `ca-cert.pem` and the client's own;
/// without one libnbd takes its own or the system's.
pub fn tls(host: &str, port: u16, export: &str, certificates: Option<&Path>) -> String {
    let mut uri = network("nbds", host, port, export);
    if let Some(directory) = certificates {
        uri.push_str("?tls-certificates=");
        encode(&mut uri, directory.as_os_str().as_bytes(), true);
    }
    uri
}

fn network(scheme: &str, host: &str, port: u16, export: &str) -> String {
    let mut uri = format!("{scheme}://");
    // IPv6 addresses are the only names with colons.
    match host.contains(':') {
        true => uri.push_str(&format!("[{host}]")),
        false => encode(&mut uri, host.as_bytes(), false),
    }
    uri.push_str(&format!(":{port}/"));
    encode(&mut uri, export.as_bytes(), false);
    uri
}

/// Appends `bytes` with everything but the unreserved characters of RFC 3986 percent-encoded.
///
/// A slash stays only in the query: libnbd takes the first slash of the path for the separator and
/// the rest as the name, but parsers on the way may fold `//` and `..`.
fn encode(uri: &mut String, bytes: &[u8], keep_slash: bool) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    for &byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
            b'/' if keep_slash => uri.push('/'),
            _ => uri.extend(['%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn names_are_encoded() {
        for (socket, export, uri) in [
            ("/run/a.sock", "", "nbd+unix:///?socket=/run/a.sock"),
            ("/run/a b?c#d&e+f%g", "vda", "nbd+unix:///vda?socket=/run/a%20b%3Fc%23d%26e%2Bf%25g"),
            ("/tmp/ü", "a/../b ü+", "nbd+unix:///a%2F..%2Fb%20%C3%BC%2B?socket=/tmp/%C3%BC"),
        ] {
            assert_eq!(unix(Path::new(socket), export), uri);
        }
        assert_eq!(tcp("h", 10809, "a/b"), "nbd://h:10809/a%2Fb");
        assert_eq!(tcp("::1", 1, "x"), "nbd://[::1]:1/x");
        assert_eq!(tls("h", 1, "x", None), "nbds://h:1/x");
        assert_eq!(tls("h", 1, "x", Some(Path::new("/a b"))), "nbds://h:1/x?tls-certificates=/a%20b");
        assert_eq!(unix(Path::new(OsStr::from_bytes(b"/\xff")), "x"), "nbd+unix:///x?socket=/%FF");
    }
}
