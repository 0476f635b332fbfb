//! Clients that people use: nbdinfo, nbdcopy, qemu-img, qemu-io, libnbd's shell, fio.

use super::Map;
use super::chain::Chain;
use crate::support::{MIB, run};

#[test]
fn libnbds_tools_read_it() {
    let chain = Chain::random(11, 4, 12 * MIB);
    let map = Map::start(&["-f", &chain.list()]);
    let uri = &map.uris[0];
    let info = run("nbdinfo", &[&"--json", uri]).succeeds().stdout;
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!((&info["protocol"], &info["structured"]), (&"newstyle-fixed".into(), &true.into()));
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], chain.content.len() as u64);
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    for (flag, value) in [
        ("is_read_only", true),
        ("can_multi_conn", true),
        ("can_df", true),
        ("can_cache", true),
        ("can_flush", true),
        ("can_trim", false),
        ("can_zero", false),
    ] {
        assert_eq!(export[flag], value, "{flag}");
    }
    assert_eq!(export["block_size_minimum"], 1);
    assert_eq!(export["block_size_maximum"], 32 << 20);
    let list = run("nbdinfo", &[&"--list", uri]).succeeds().stdout;
    assert!(list.contains("export=\"vda\""), "{list}");

    // The map of nbdinfo covers the disk, and what it calls zero is.
    let extents = run("nbdinfo", &[&"--map", uri]).succeeds().stdout;
    let mut position = 0;
    for line in extents.lines() {
        let fields: Vec<u64> = line.split_whitespace().take(3).map(|field| field.parse().unwrap()).collect();
        let [offset, length, kind] = fields[..] else { panic!("{line}") };
        assert_eq!(offset, position, "{line}");
        position += length;
        let part = &chain.content[offset as usize..position as usize];
        assert!(kind == 0 || kind == 3 && part.iter().all(|&byte| byte == 0), "{line}");
    }
    assert_eq!(position, chain.content.len() as u64);

    for options in [
        &["--connections=1"][..],
        &["--connections=8", "--requests=64"],
        &["--request-size=1048576"],
        &["--synchronous"],
    ] {
        let copy = map.directory().join("copy");
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = options.iter().map(|option| option as _).collect();
        all.extend([uri as &dyn AsRef<std::ffi::OsStr>, &copy]);
        run("nbdcopy", &all).succeeds();
        assert!(std::fs::read(&copy).unwrap() == chain.content, "{options:?}");
        std::fs::remove_file(copy).unwrap();
    }
    map.end("TERM").succeeds();
}

#[test]
fn qemu_reads_it() {
    // QEMU knows whole sectors only.
    let mut content = Chain::random(12, 4, 12 * MIB).content;
    content.truncate(content.len() / 512 * 512);
    let chain = Chain::full(content, virtkeep::stream::codec::Compression::Lz4 { level: 1 });
    let map = Map::start(&["-f", &chain.list()]);
    let (uri, reference) = (&map.uris[0], chain.reference());
    run("qemu-img", &[&"compare", &"-f", &"raw", &"-F", &"raw", uri, &reference]).succeeds();
    let image = map.directory().join("image");
    run("qemu-img", &[&"convert", &"-f", &"raw", &"-O", &"qcow2", uri, &image]).succeeds();
    run("qemu-img", &[&"compare", &"-f", &"qcow2", &"-F", &"raw", &image, &reference]).succeeds();
    let extents = run("qemu-img", &[&"map", &"--output=json", &"-f", &"raw", uri]).succeeds().stdout;
    let extents: serde_json::Value = serde_json::from_str(&extents).unwrap();
    for extent in extents.as_array().unwrap() {
        let start = extent["start"].as_u64().unwrap() as usize;
        let part = &chain.content[start..start + extent["length"].as_u64().unwrap() as usize];
        assert!(!extent["zero"].as_bool().unwrap() || part.iter().all(|&byte| byte == 0), "{extent}");
    }
    let refused = run("qemu-io", &[&"-f", &"raw", &"-c", &"write 0 512", uri]);
    assert!(refused.status != 0 || refused.stdout.contains("failed") || refused.stderr.contains("ermi"), "{refused:?}");
    map.end("TERM").succeeds();
}

/// What libnbd can do and the tools don't.
const SCRIPT: &str = r#"
import errno, os, random
content = open(os.environ["REFERENCE"], "rb").read()
uri, size = os.environ["URI"], len(content)

# Many at a time, answered in any order; with chunks and without.
for structured in (True, False):
    h = nbd.NBD()
    h.add_meta_context("base:allocation")
    h.set_request_structured_replies(structured)
    h.connect_uri(uri)
    assert h.get_size() == size and h.is_read_only() and h.can_multi_conn()
    assert h.get_structured_replies_negotiated() == structured
    assert h.can_meta_context("base:allocation") == structured
    wanted = []
    for number in range(400):
        length = random.randint(1, min(size, 300000))
        offset = random.randint(0, size - length)
        buffer = nbd.Buffer(length)
        wanted.append((h.aio_pread(buffer, offset), buffer, offset, length))
        while h.aio_in_flight() > 64:
            h.poll(-1)
    for cookie, buffer, offset, length in wanted:
        while not h.aio_command_completed(cookie):
            h.poll(-1)
        assert buffer.to_bytearray() == content[offset:offset + length], (offset, length)
    h.flush()
    h.cache(min(size, 1 << 20), 0)
    h.shutdown()

# Chunks: without gaps or overlaps; one where that is asked for.
h = nbd.NBD()
h.connect_uri(uri)
for flags in (0, nbd.CMD_FLAG_DF):
    seen = []
    def chunk(part, offset, status, error):
        seen.append((offset, len(part), status))
        return 0
    length = min(size, 3 << 20)
    data = h.pread_structured(length, 0, chunk, flags)
    assert data == content[:length]
    assert sum(part[1] for part in seen) == length, seen
    assert not flags or len(seen) == 1, seen
assert h.can_df() and h.can_cache() and not h.can_trim() and not h.can_zero()

# Nothing is checked here on the client's side: what is refused is refused by the server.
h.set_strict_mode(0)
for call, wanted in [
    (lambda: h.pwrite(b"x" * 512, 0), errno.EPERM),
    (lambda: h.trim(512, 0), errno.EPERM),
    (lambda: h.zero(512, 0), errno.EPERM),
    (lambda: h.pread(512, size), errno.EINVAL),
    (lambda: h.pread(1, size + 5), errno.EINVAL),
    (lambda: h.cache(512, size), errno.EINVAL),
    (lambda: h.block_status(512, 0, lambda *a: 0), errno.EINVAL),
]:
    try:
        call()
        raise SystemExit("not refused")
    except nbd.Error as error:
        assert error.errnum == wanted, (error, wanted)
assert h.pread(5, 3) == content[3:8]

# The options one by one.
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_unix(os.environ["SOCKET"])
names = []
h.opt_list(lambda name, description: names.append((name, description)) or 0)
assert [name for name, _ in names] == ["vda"] and "MiB" in names[0][1], names
h.set_full_info(True)
h.set_export_name("vda")
h.opt_info()
assert h.get_size() == size and h.get_canonical_export_name() == "vda" and "streams" in h.get_export_description()
assert h.get_block_size(nbd.SIZE_MINIMUM) == 1 and h.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20
h.set_export_name("nothing")
try:
    h.opt_info()
    raise SystemExit("not refused")
except nbd.Error:
    pass
h.opt_abort()
"#;

#[test]
fn libnbd_scripts_find_what_the_protocol_promises() {
    let chain = Chain::random(13, 5, 5 * MIB);
    let map = Map::start(&["-f", &chain.list()]);
    let script = map.directory().join("script.py");
    std::fs::write(&script, SCRIPT).unwrap();
    let (uri, reference) = (&map.uris[0], chain.reference());
    let set = [
        format!("URI={uri}"),
        format!("REFERENCE={}", reference.display()),
        format!("SOCKET={}", map.socket.display()),
    ];
    let load = format!("exec(open({:?}).read())", script.display().to_string());
    // The system's Python has the module, another one in the path may not.
    let python = format!("PATH=/usr/bin:{}", std::env::var("PATH").unwrap());
    run("env", &[&set[0], &set[1], &set[2], &python, &"nbdsh", &"-c", &load]).succeeds();
    map.end("TERM").succeeds();
}

#[test]
fn fio_reads_it() {
    let chain = Chain::random(14, 3, 8 * MIB);
    let map = Map::start(&["-f", &chain.list()]);
    let uri = format!("--uri={}", map.uris[0]);
    let job = ["--name=map", "--ioengine=nbd", "--rw=randread", "--bs=4k", "--iodepth=16", "--number_ios=2000"];
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = job.iter().map(|option| option as _).collect();
    all.push(&uri);
    let said = run("fio", &all).succeeds().stdout;
    assert!(said.contains("err= 0"), "{said}");
    map.end("TERM").succeeds();
}
