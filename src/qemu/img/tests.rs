use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tempfile::TempDir;

use super::bitmaps::parse_bitmaps;
use super::info::parse;
use super::*;
use crate::error::{Kind, hint, report};
use crate::host::Host;
use crate::nbd::testing::{text, tool};

#[test]
fn senseless_json_is_refused() {
    for json in [
        "",
        "[]",
        "{}",
        r#"{"virtual-size": -1, "format": "raw"}"#,
        r#"{"virtual-size": 1e30, "format": "raw"}"#,
        r#"{"virtual-size": 1, "format": 7}"#,
        r#"{"virtual-size": 1, "format": "qcow2", "format-specific": {"type": "qcow2", "data": {"refcount-bits": "x"}}}"#,
        r#"{"virtual-size": 1, "format": "qcow2", "format-specific": {"type": "qcow2", "data": []}"#,
        &"[".repeat(100_000),
    ] {
        assert_eq!(parse(json.to_owned()).unwrap_err().kind(), Kind::Protocol, "{json:.80}");
    }
    let luks =
        r#"{"virtual-size": 1, "format": "luks", "encrypted": true, "format-specific": {"type": "luks", "data": 3}}"#;
    let info = parse(luks.to_owned()).unwrap();
    assert!(info.encrypted && info.qcow2.is_none() && info.json == luks);
}

#[test]
fn missing_and_broken_images_are_reported() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("no.qcow2");
    assert_eq!(info(&Host::Local, &path).unwrap_err().kind(), Kind::NotFound);
    std::fs::write(&path, b"QFI\xfb then nothing of sense").unwrap();
    let error = info(&Host::Local, &path).unwrap_err();
    assert!(report(&error).contains("no.qcow2") && report(&error).contains("Could not"), "{}", report(&error));
    assert!(hint(&error).is_none());
    assert_eq!(create(&path, 1 << 20, &CreateOptions::default()).unwrap_err().kind(), Kind::Busy);

    let bad = directory.path().join("bad.qcow2");
    let options = CreateOptions { cluster_size: Some(1000), ..CreateOptions::default() };
    let error = create(&bad, 1 << 20, &options).unwrap_err();
    assert!(report(&error).to_lowercase().contains("cluster size"), "{}", report(&error));
    assert!(!bad.exists(), "the reserved name stays behind");
}

#[test]
fn properties_are_carried_over() {
    let directory = TempDir::new().unwrap();
    let original = directory.path().join("original.qcow2");
    let copy = directory.path().join("copy.qcow2");
    let data = directory.path().join("data.raw");
    let data_file = format!("data_file={},data_file_raw=on,cluster_size=32768", text(&data));
    for options in [
        "cluster_size=4096,refcount_bits=8",
        "cluster_size=131072,extended_l2=on,lazy_refcounts=on,compression_type=zstd",
        "compat=0.10",
        &data_file,
    ] {
        tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, text(&original), "7M"]);
        let before = info(&Host::Local, &original).unwrap();
        assert_eq!(before.qcow2.as_ref().unwrap().data_file.is_some(), options.starts_with("data_file"));
        create(&copy, before.virtual_size, &CreateOptions::from(&before)).unwrap();
        let after = info(&Host::Local, &copy).unwrap();
        let plain = Qcow2Info { data_file: None, data_file_raw: None, ..before.qcow2.unwrap() };
        let fresh = Qcow2Info { data_file_raw: None, ..after.qcow2.unwrap() };
        assert_eq!((after.virtual_size, after.cluster_size, fresh), (7 << 20, before.cluster_size, plain), "{options}");
        std::fs::remove_file(&original).unwrap();
        std::fs::remove_file(&copy).unwrap();
    }
}

#[test]
fn space_is_set_aside() {
    let directory = TempDir::new().unwrap();
    for (preallocation, at_least) in [
        (Preallocation::Off, 0),
        (Preallocation::Metadata, 0),
        (Preallocation::Falloc, 8 << 20),
        (Preallocation::Full, 8 << 20),
    ] {
        let path = directory.path().join(preallocation.name());
        create(&path, 8 << 20, &CreateOptions { preallocation, ..CreateOptions::default() }).unwrap();
        let stored = std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap()) * 512;
        assert!(stored >= at_least, "{preallocation:?}: {stored}");
    }
}

#[test]
fn names_are_taken_for_paths() {
    let directory = TempDir::new().unwrap();
    for name in ["-f", "nbd:x", "a,b=c", "json:{}", "fat:x y", "ü\u{1}%s"] {
        let path = directory.path().join(name);
        create(&path, 1 << 20, &CreateOptions::default()).unwrap();
        assert_eq!(info_as(&Host::Local, &path, "qcow2").unwrap().virtual_size, 1 << 20, "{name}");
        assert_eq!(info_as(&Host::Local, &path, "raw").unwrap().format, "raw");
    }
    assert_eq!(file_name(Path::new("-f")), "./-f");
    assert_eq!(file_name(Path::new("nbd:x")), "./nbd:x");
    let odd = directory.path().join(OsStr::from_bytes(b"\xff,x"));
    std::fs::write(&odd, b"").unwrap();
    let options = image_opts(&odd, "qcow2", true).unwrap();
    let start = "driver=compress,file.driver=qcow2,file.file.driver=file,file.file.filename=";
    assert!(options.as_bytes().starts_with(start.as_bytes()) && options.as_bytes().ends_with(b"/\xff,,x"));
    assert!(
        image_opts(&odd, "qcow2,file.x=y", false)
            .unwrap()
            .as_bytes()
            .starts_with(b"driver=qcow2,,file.x=y,file.driver=file,")
    );
}

#[test]
fn bitmaps_are_listed_down_the_chain() {
    let directory = TempDir::new().unwrap();
    let (base, overlay) = (directory.path().join("base.qcow2"), directory.path().join("over lay.qcow2"));
    create(&base, 1 << 20, &CreateOptions::default()).unwrap();
    tool("qemu-img", &["bitmap", "--add", text(&base), "virtnbdbackup.0"]);
    tool("qemu-img", &["bitmap", "--add", "--disable", text(&base), "b"]);
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(&base), text(&overlay)]);
    let before = std::fs::read(&base).unwrap();
    let images = bitmaps(&Host::Local, &overlay).unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!((images[0].filename.as_str(), images[0].bitmaps.len()), (text(&overlay), 0));
    let flags: Vec<_> = images[1].bitmaps.iter().map(|bitmap| (bitmap.name.as_str(), bitmap.flags.join(","))).collect();
    assert_eq!(flags, [("virtnbdbackup.0", "auto".to_owned()), ("b", String::new())]);
    assert_eq!(std::fs::read(&base).unwrap(), before);
    assert_eq!(bitmaps(&Host::Local, &directory.path().join("none")).unwrap_err().kind(), Kind::NotFound);
    for json in ["", "{}", r#"[{"filename": 1}]"#, r#"[{"filename":"a","format-specific":{"type":"qcow2","data":3}}]"#]
    {
        assert_eq!(parse_bitmaps(json.as_bytes()).unwrap_err().kind(), Kind::Protocol, "{json}");
    }
}
