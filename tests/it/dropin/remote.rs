//! Domains of another host: as virtnbdbackup does it, over TCP.

use std::ffi::OsStr;

use super::link;
use crate::remote::hosts::Hosts;
use crate::support::{MIB, compare};

#[test]
fn another_host_is_backed_up_and_restored_to() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:4M"]);
    case.domain.write("vda", 1, 0, MIB);
    let (uri, scratch, tls) = (hosts.ssh(), hosts.lab.scratch(), hosts.certificates("tls"));
    let backup = |options: &[&str]| {
        let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"-U", &uri, &"-n", &"-d", &"d", &"--scratchdir", &scratch];
        all.extend([&"-o" as &dyn AsRef<OsStr>, &case.set]);
        all.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
        hosts.here(&link(hosts.directory(), "virtnbdbackup"), &all)
    };
    backup(&["-l", "full"]).succeeds().says(&[
        "Connecting remote system [there]",
        "vda: [nbd://",
        ":10809/vda]",
        "Finished successfully",
    ]);
    case.domain.write("vda", 2, MIB, MIB);
    let reference = case.domain.snapshot_reference("vda");
    backup(&["-l", "inc", "--tls", "--tls-cert", &tls, "-P", "10811"]).succeeds().says(&["vda: [nbds://", ":10811/"]);
    case.restores(&[], &["vda"], std::slice::from_ref(&reference));

    let out = hosts.lab.scratch().join("restored");
    let (log, program) = (hosts.directory().join("log"), link(hosts.directory(), "virtnbdrestore"));
    let words: [&dyn AsRef<OsStr>; 10] = [&"-U", &uri, &"-n", &"-L", &log, &"-cD", &"-i", &case.set, &"-o", &out];
    hosts.here(&program, &words).succeeds().says(&["Successfully redefined domain [restore_d]"]);
    compare(&out.join("d-vda.qcow2"), "qcow2", &reference);
    assert_eq!(hosts.lab.virsh(&[&"domstate", &"restore_d"]).trim(), "shut off");
}
