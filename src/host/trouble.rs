//! Why ssh did not get there, and what to do about it: by ssh's words, for it has one status for everything.

use super::address::SshTarget;
use crate::error::{Error, Kind};

/// The error for what ssh has said.
pub fn explain(target: &SshTarget, said: &str) -> Error {
    let host = &target.host;
    let at = target.user.as_ref().map_or_else(|| host.clone(), |user| format!("{user}@{host}"));
    let by_hand = match target.port {
        Some(port) => format!("ssh -p {port} {at}"),
        None => format!("ssh {at}"),
    };
    let has = |words: &str| said.contains(words);
    let hint = if has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        format!(
            "the host's key is not the one that is known: find out why; if it was installed anew, `ssh-keygen -R {host}` \
             forgets the old one"
        )
    } else if has("Host key verification failed") {
        format!("the host's key is not known to this user: log in once by hand, compare the fingerprint: `{by_hand}`")
    } else if has("Permission denied") || has("Too many authentication failures") {
        format!(
            "ssh must log in without a password: a key of an agent, of ~/.ssh or --ssh-private-key that {at} accepts \
             (`ssh-copy-id`); --ssh-user names another user; `{by_hand} true` shows whether it does"
        )
    } else if has("Connection refused") {
        "does sshd run there, and at this port? --ssh-port names another".to_owned()
    } else if has("Could not resolve hostname") {
        "name the host as `ssh` knows it: by its name, its address, or its name in ~/.ssh/config".to_owned()
    } else if has("timed out") || has("No route to host") || has("unreachable") {
        format!("is the host up, and does a firewall let this machine in? `{by_hand} true`")
    } else {
        format!("`{by_hand} true` must work without any question")
    };
    let told = |line: &&str| !line.is_empty() && !line.contains("@@@@") && !line.starts_with("Warning: Permanently");
    let cause = match said.lines().map(str::trim).rfind(told) {
        // Why stands in the lines before, in many words.
        Some(_) if has("REMOTE HOST IDENTIFICATION HAS CHANGED") => "the host's key has changed".to_owned(),
        Some(line) => line.to_owned(),
        None => "the connection ended without a word".to_owned(),
    };
    Error::new(Kind::Io, format!("no ssh connection to {at}")).hint(hint).caused_by(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::report;

    #[test]
    fn each_failure_names_its_remedy() {
        let target = SshTarget {
            program: "ssh".into(),
            host: "h".into(),
            user: Some("root".into()),
            port: Some(23),
            private_key: None,
            no_verify: false,
        };
        for (said, hint) in [
            ("No ED25519 host key is known for h\r\nHost key verification failed.\r\n", "ssh -p 23 root@h"),
            ("@@@\nWARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.", "ssh-keygen -R h"),
            ("root@h: Permission denied (publickey).", "--ssh-private-key"),
            ("ssh: connect to host h port 23: Connection refused", "--ssh-port"),
            ("ssh: Could not resolve hostname h: Name or service not known", "~/.ssh/config"),
            ("ssh: connect to host h port 22: Connection timed out", "firewall"),
            ("", "without any question"),
        ] {
            let error = explain(&target, said);
            assert!(error.hint_text().unwrap().contains(hint), "{said}: {error:?}");
            assert!(report(&error).starts_with("no ssh connection to root@h: "), "{}", report(&error));
        }
    }
}
