//! Names of the files that a run's backup job has on the domain's host. They bear the run's UUID: a job in
//! libvirt's list, or a file that a dead host left, is told by them.

use uuid::Uuid;

const PREFIX: &str = "virtkeep.";
const SOCKET: &str = "sock";
const SCRATCH: &str = ".scratch";
/// virtnbdbackup calls its scratch files `backup.RANDOM.DISK`.
const CLASSIC: &str = "backup.";

/// The job's NBD socket.
pub fn socket_name(run: Uuid) -> String {
    format!("{PREFIX}{run}.{SOCKET}")
}

/// The scratch file of a disk.
pub fn scratch_name(run: Uuid, target: &str) -> String {
    format!("{PREFIX}{run}.{target}{SCRATCH}")
}

/// The scratch file of a disk as the drop-in command calls it: what virtnbdbackup's are called, with the run as
/// the random part.
pub fn classic_scratch_name(run: Uuid, target: &str) -> String {
    format!("{CLASSIC}{run}.{target}")
}

/// The runs in a text with such names, a job's XML say.
pub fn runs_in(text: &str) -> Vec<Uuid> {
    let of = |prefix: &'static str| text.split(prefix).skip(1).filter_map(leading_run);
    let mut runs: Vec<Uuid> = of(PREFIX).chain(of(CLASSIC)).collect();
    runs.dedup();
    runs
}

/// The run in the name of a scratch file or socket, and the rest of the name.
pub fn run_of_file(name: &str) -> Option<(Uuid, &str)> {
    let (rest, classic) = match name.strip_prefix(PREFIX) {
        Some(rest) => (rest, false),
        None => (name.strip_prefix(CLASSIC)?, true),
    };
    let run = leading_run(rest)?;
    let rest = rest.get(uuid::fmt::Hyphenated::LENGTH..)?.strip_prefix('.')?;
    // A log of the set is called backup.LEVEL.TIME.RUN.log: it never begins with the run.
    (classic || rest == SOCKET || rest.ends_with(SCRATCH)).then_some((run, rest))
}

fn leading_run(text: &str) -> Option<Uuid> {
    let digits = text.get(..uuid::fmt::Hyphenated::LENGTH)?;
    Uuid::parse_str(digits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_in_names() {
        let run = Uuid::from_u128(0x1234);
        let (socket, scratch) = (socket_name(run), scratch_name(run, "vda"));
        assert_eq!(runs_in(&format!("<server socket='/a/{socket}'/><scratch file='/a/{scratch}'/>")), [run]);
        assert!(runs_in("<scratch file='/virtkeep.x/virtkeep.\u{e4}'/>").is_empty());
        assert_eq!(run_of_file(&scratch), Some((run, "vda.scratch")));
        assert_eq!(run_of_file(&socket), Some((run, "sock")));
        let classic = classic_scratch_name(run, "vda");
        assert_eq!(runs_in(&format!("<server socket='/a/virtnbdbackup.1'/><scratch file='/a/{classic}'/>")), [run]);
        assert_eq!(run_of_file(&classic), Some((run, "vda")));
        assert_eq!(run_of_file("backup.RANDOM.vda"), None);
        for name in ["virtkeep.sock", "virtkeep.x.sock", &format!("virtkeep.{run}"), &format!("virtkeep.{run}.txt"), ""]
        {
            assert_eq!(run_of_file(name), None, "{name}");
        }
    }
}
