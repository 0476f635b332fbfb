//! Golden files: made by a script from the text of the format, never to change.

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stream-v1").join(name)
}

const SIZE: u64 = BLOCK + 4196;

fn check(name: &str, frames: &[Extent], incremental: bool, compression: Compression) {
    let disk: Vec<u8> = (0..SIZE).map(|offset| (offset * 7 + offset / 4096) as u8).collect();
    let picture = Picture { frames: frames.to_vec(), disk, incremental, compression };
    let path = golden(name);
    let reader = StreamReader::open(&path).unwrap();
    assert_eq!(reader.meta(), &picture.meta());
    check_reads(&reader, &picture, &[1]);
    assert!(whole(&path).is_sound());

    let bytes = std::fs::read(&path).unwrap();
    let mut payloads = reader.frames().iter();
    let mut store = |_: &[u8]| {
        let piece = payloads.next().unwrap();
        Ok(bytes[piece.position as usize..(piece.position + piece.stored) as usize].to_vec())
    };
    let spool = TempDir::new().unwrap();
    let (written, finished) = picture.write_with(spool.path(), &mut store).unwrap();
    assert!(written == bytes, "{name}: the writer's bytes differ");
    assert_eq!(Some(finished.index_digest), reader.index_digest());
}

#[test]
fn plain_full() {
    let frames = [Extent::zero(0, BLOCK - 4096), Extent::data(BLOCK - 4096, 8192), Extent::zero(BLOCK + 4096, 100)];
    check("full.data", &frames, false, Compression::None);
}

#[test]
fn plain_increment_with_zero_extents() {
    let frames = [Extent::zero(4096, 8192), Extent::zero(65536, 65536), Extent::data(BLOCK + 4096, 100)];
    check("inc.data", &frames, true, Compression::None);
}

#[test]
fn compressed_full() {
    let frames = [
        Extent::zero(0, 4096),
        Extent::data(4096, 8192),
        Extent::zero(12288, BLOCK - 16384),
        Extent::data(BLOCK - 4096, 4096),
        Extent::data(BLOCK, 4096),
        Extent::zero(BLOCK + 4096, 100),
    ];
    check("full-lz4.data", &frames, false, Compression::Lz4 { level: 9 });
}

/// The page of the format shows `inc.data` in hex.
#[test]
fn the_listing_in_the_documents_is_the_file() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/stream-format.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut listed = Vec::new();
    for line in page.lines() {
        let Some((offset, rest)) = line.split_once("  ") else { continue };
        if offset.len() != 8 || usize::from_str_radix(offset, 16) != Ok(listed.len()) {
            continue;
        }
        let digits = rest.split('|').next().unwrap();
        listed.extend(digits.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    assert!(listed == std::fs::read(golden("inc.data")).unwrap(), "listing and file differ");
}

/// Oracles that are not ours: the lz4 program and python's module, which virtnbdrestore uses.
#[test]
fn others_decompress_our_payloads() {
    let dir = TempDir::new().unwrap();
    let mut content = vec![0; 2_500_000];
    fill(&mut content, 77, 3);
    for level in [1, 2, 3, 9, 16] {
        let mut stored = Vec::new();
        Compressor::new(Compression::Lz4 { level }).compress(&content, &mut stored).unwrap();
        let path = dir.path().join("payload.lz4");
        std::fs::write(&path, &stored).unwrap();
        let script =
            "import lz4.frame,sys; sys.stdout.buffer.write(lz4.frame.decompress(open(sys.argv[1],'rb').read()))";
        for (program, arguments) in [("lz4", &["-dcq"][..]), ("/usr/bin/python3", &["-c", script])] {
            let output = std::process::Command::new(program).args(arguments).arg(&path).output().unwrap();
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == content, "{program}, level {level}");
        }
    }
}
