//! The machine that a libvirt URI names, and how `ssh` gets there.

use std::ffi::OsString;
use std::path::PathBuf;

/// How libvirt's own connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Through ssh.
    Ssh,
    /// Through one of libvirt's ssh libraries.
    SshLibrary,
    /// TLS, which is the default.
    Tls,
    /// Any other, by its name.
    Other(String),
}

/// A URI of another machine, in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// How libvirt's own connection goes.
    pub transport: Transport,
    /// Name or address of the machine, an IPv6 address without its brackets.
    pub host: String,
    driver: String,
    user: Option<String>,
    port: Option<u16>,
    path: String,
    parameters: Vec<(String, String)>,
}

/// What the options say about ssh; they come before what the URI says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshOptions {
    /// User name there.
    pub user: Option<String>,
    /// Port of the sshd.
    pub port: Option<u16>,
    /// File with the private key.
    pub private_key: Option<PathBuf>,
}

/// All that `ssh` is told beside its own configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    /// The program.
    pub program: OsString,
    /// The host, as its configuration knows it.
    pub host: String,
    /// User name there.
    pub user: Option<String>,
    /// Port of the sshd.
    pub port: Option<u16>,
    /// File with the private key.
    pub private_key: Option<PathBuf>,
    /// The host's key is not to be proven: `no_verify=1` in the URI.
    pub no_verify: bool,
}

impl Address {
    /// The parts of `uri`; none where it names a daemon of this machine, or is no URI at all (libvirt says so).
    pub fn parse(uri: &str) -> Option<Self> {
        let (scheme, rest) = uri.split_once("://")?;
        let (driver, transport) = match scheme.split_once('+') {
            None => (scheme, Transport::Tls),
            Some((driver, name)) => (
                driver,
                match name {
                    "ssh" => Transport::Ssh,
                    "libssh" | "libssh2" => Transport::SshLibrary,
                    "tls" => Transport::Tls,
                    name => Transport::Other(name.to_owned()),
                },
            ),
        };
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(decode(user)).filter(|user| !user.is_empty()), place),
            None => (None, authority),
        };
        let (host, port) = match place.strip_prefix('[').and_then(|place| place.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return None;
        }
        let pairs = query.split(['&', ';']).filter(|pair| !pair.is_empty());
        let parameters = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Some(Self {
            transport,
            host: decode(host),
            driver: driver.to_owned(),
            user,
            port: port.and_then(|port| port.parse().ok()),
            path: path.to_owned(),
            parameters: parameters.map(|(name, value)| (name.to_owned(), decode(value))).collect(),
        })
    }

    /// A parameter of the URI.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Whether the daemon there is a user's own.
    pub fn is_session(&self) -> bool {
        self.path == "/session"
    }

    /// Whether libvirt's own connection goes through ssh.
    pub fn is_ssh(&self) -> bool {
        matches!(self.transport, Transport::Ssh | Transport::SshLibrary)
    }

    /// How `ssh` gets there. User, port and key of the URI are ssh's only where libvirt goes through ssh, too.
    pub fn ssh(&self, options: &SshOptions) -> SshTarget {
        let own = self.is_ssh();
        let of_uri = |name: &str| self.parameter(name).filter(|value| own && !value.is_empty());
        let program = of_uri("command").filter(|_| self.transport == Transport::Ssh);
        SshTarget {
            program: program.unwrap_or("ssh").into(),
            host: self.host.clone(),
            user: options.user.clone().or_else(|| self.user.clone().filter(|_| own)),
            port: options.port.or(self.port.filter(|_| own)),
            private_key: options.private_key.clone().or_else(|| of_uri("keyfile").map(PathBuf::from)),
            no_verify: of_uri("no_verify") == Some("1"),
        }
    }

    /// The URI for libvirt: through ssh with what the options say, and never asking at the terminal.
    pub fn libvirt_uri(&self, uri: &str, options: &SshOptions) -> String {
        if !self.is_ssh() {
            return uri.to_owned();
        }
        let target = self.ssh(options);
        let mut parameters = self.parameters.clone();
        let mut set = |name: &str, value: String| {
            parameters.retain(|(other, _)| other != name);
            parameters.push((name.to_owned(), value));
        };
        if let Some(key) = &options.private_key {
            set("keyfile", key.to_string_lossy().into_owned());
        }
        if self.transport == Transport::Ssh {
            set("no_tty", "1".to_owned());
        }
        let (scheme, _) = uri.split_once("://").unwrap_or((&self.driver, ""));
        let mut text = format!("{scheme}://");
        if let Some(user) = &target.user {
            encode(&mut text, user);
            text.push('@');
        }
        match self.host.contains(':') {
            true => text.push_str(&format!("[{}]", self.host)),
            false => encode(&mut text, &self.host),
        }
        text.extend(target.port.map(|port| format!(":{port}")));
        text.push_str(&self.path);
        for (index, (name, value)) in parameters.iter().enumerate() {
            text.push(if index == 0 { '?' } else { '&' });
            text.push_str(name);
            text.push('=');
            encode(&mut text, value);
        }
        text
    }
}

/// A parameter of any libvirt URI, one of this machine's daemon too.
pub fn parameter(uri: &str, name: &str) -> Option<String> {
    let (_, query) = uri.split_once('?')?;
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    let mut pairs = query.split(['&', ';']).filter_map(|pair| pair.split_once('='));
    pairs.find(|(other, _)| *other == name).map(|(_, value)| decode(value))
}

/// Percent-decodes; what is no valid text becomes replacement characters.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|&byte| char::from(byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits are a byte.
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encode(text: &mut String, value: &str) {
    for &byte in value.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_daemons_have_no_address() {
        for local in
            ["qemu:///system", "qemu:///session?socket=/a//b@h", "qemu+unix:///system", "test:///default", "::"]
        {
            assert_eq!(Address::parse(local), None, "{local}");
        }
    }

    #[test]
    fn the_parts_of_a_uri() {
        let uri = "qemu+ssh://a%40b@h.example:2222/session?socket=/run/x%20y&keyfile=/k&no_verify=1";
        let address = Address::parse(uri).unwrap();
        assert_eq!((address.host.as_str(), address.is_session(), address.is_ssh()), ("h.example", true, true));
        assert_eq!(address.parameter("socket"), Some("/run/x y"));
        assert_eq!(parameter(uri, "keyfile").as_deref(), Some("/k"));
        let target = address.ssh(&SshOptions::default());
        assert_eq!((target.user.as_deref(), target.port, target.no_verify), (Some("a@b"), Some(2222), true));
        assert_eq!(target.private_key, Some("/k".into()));

        let address = Address::parse("qemu+tls://u@[fe80::1]:16514/system?keyfile=/k").unwrap();
        assert_eq!(address.host, "fe80::1");
        let target = address.ssh(&SshOptions { user: Some("root".into()), ..SshOptions::default() });
        assert_eq!((target.user.as_deref(), target.port, target.private_key), (Some("root"), None, None));
        assert_eq!(Address::parse("qemu://h").unwrap().transport, Transport::Tls);
        assert_eq!(Address::parse("qemu+tcp://h:1/system").unwrap().transport, Transport::Other("tcp".into()));
    }

    #[test]
    fn options_come_before_the_uri() {
        let options = SshOptions { user: Some("r t".into()), port: Some(22), private_key: Some("/a b&c".into()) };
        let uri = "qemu+ssh://u@[::1]:23/session?keyfile=/k&socket=/s#x";
        let libvirt = Address::parse(uri).unwrap().libvirt_uri(uri, &options);
        assert_eq!(libvirt, "qemu+ssh://r%20t@[::1]:22/session?socket=/s&keyfile=/a%20b%26c&no_tty=1");
        let back = Address::parse(&libvirt).unwrap();
        assert_eq!(back.parameter("keyfile"), Some("/a b&c"));
        let tls = "qemu+tls://h/system?pkipath=/p";
        assert_eq!(Address::parse(tls).unwrap().libvirt_uri(tls, &options), tls);
    }

    #[test]
    fn odd_texts_are_decoded_as_they_are() {
        for (text, decoded) in
            [("%", "%"), ("%4", "%4"), ("%zz", "%zz"), ("a%41", "aA"), ("%e4", "\u{fffd}"), ("+", "+")]
        {
            assert_eq!(decode(text), decoded);
        }
    }
}
