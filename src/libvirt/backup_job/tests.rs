use super::*;

fn spec() -> BackupSpec {
    let disk = |target: &str, mode| BackupDisk {
        target: target.into(),
        export_name: target.into(),
        scratch: format!("/abs/{target}.scratch").into(),
        mode,
    };
    BackupSpec {
        server: Server::Unix("/abs/x'&.sock".into()),
        disks: vec![disk("vda", BackupMode::Incremental { from: "cp1".into() }), disk("vdc", BackupMode::Full)],
        other_disks: vec!["hdx".into()],
    }
}

#[test]
fn the_xml_names_every_disk() {
    let expected = "<domainbackup mode=\"pull\"><server transport=\"unix\" socket=\"/abs/x&apos;&amp;.sock\"/><disks>\
            <disk name=\"vda\" backup=\"yes\" type=\"file\" backupmode=\"incremental\" incremental=\"cp1\" \
            exportbitmap=\"backup-vda\" exportname=\"vda\"><driver type=\"qcow2\"/><scratch file=\"/abs/vda.scratch\"/></disk>\
            <disk name=\"vdc\" backup=\"yes\" type=\"file\" backupmode=\"full\" exportname=\"vdc\">\
            <driver type=\"qcow2\"/><scratch file=\"/abs/vdc.scratch\"/></disk>\
            <disk name=\"hdx\" backup=\"no\"/></disks></domainbackup>";
    assert_eq!(spec().to_xml().unwrap(), expected);
}

#[test]
fn a_server_of_tcp_is_said_with_tls_or_without() {
    for (tls, attribute) in [(false, ""), (true, " tls=\"yes\"")] {
        let xml =
            BackupSpec { server: Server::Tcp { address: "::1".into(), port: 1, tls }, ..spec() }.to_xml().unwrap();
        let server = format!("<server transport=\"tcp\" name=\"::1\" port=\"1\"{attribute}/>");
        assert!(xml.contains(&server), "{xml}");
        assert_eq!(job_server(&xml).unwrap(), "address ::1 port 1");
    }
}

#[test]
fn a_job_is_told_by_its_scratch_files() {
    let xml = spec().to_xml().unwrap();
    assert_eq!(job_server(&xml).unwrap(), "socket \"/abs/x'&.sock\"");
    assert!(job_is_ours(&xml, "vdc."));
    // A directory's name and the socket's are no mark.
    for (xml, mark) in [(xml.as_str(), "abs"), (&xml, "sock"), ("", "vda"), ("<domainbackup/>", ""), ("<x/>", "")] {
        assert!(!job_is_ours(xml, mark), "{xml} {mark}");
    }
}
