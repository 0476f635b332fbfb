//! What the writer writes and the reader reads: each other's, and what is wrong in many ways.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::ZipWriter;
use crate::error::Kind;
use crate::stored::archive::Archive;
use crate::stored::zips::Zips;

const TIME: jiff::civil::DateTime = jiff::civil::date(2026, 11, 22).at(12, 34, 57, 0);

fn sample() -> Vec<u8> {
    let mut zip = ZipWriter::new(Vec::new(), &TIME, 0o600);
    zip.begin("vda.full.data").unwrap();
    zip.write_all(b"content ").unwrap();
    zip.write_all(b"of a stream").unwrap();
    zip.begin("vdb.full.data").unwrap();
    zip.end().unwrap();
    zip.store("checkpoints/ä.xml", b"<xml/>").unwrap();
    zip.finish().unwrap()
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn kind_of(bytes: &[u8]) -> Option<Kind> {
    Archive::open(file(bytes).path()).err().map(|error| error.kind())
}

#[test]
fn members_are_read_in_place() {
    let file = file(&sample());
    let zips = Zips::open(&[file.path().to_owned()]).unwrap();
    let expected: [(&str, &[u8]); 3] =
        [("vda.full.data", b"content of a stream"), ("vdb.full.data", b""), ("checkpoints/ä.xml", b"<xml/>")];
    for (name, content) in expected {
        let member = zips.file_called(name);
        assert_eq!(member.read(100).unwrap(), content);
        assert_eq!(member.path(), file.path().join(name));
    }
    assert!(zips.file_called("vda.full.data").read(3).is_err());
    let missing = zips.file_called("vda.full.data").beside("nowhere");
    assert!(!missing.exists());
    assert_eq!(missing.open().unwrap_err().kind(), Kind::NotFound);
    let stream = zips.file_called("vda.full.data").open().unwrap();
    let mut part = [0; 4];
    stream.read_exact_at(&mut part, 15).unwrap();
    assert_eq!(&part, b"ream");
    assert!(stream.read_exact_at(&mut part, 16).is_err(), "it reads into what follows");
}

#[test]
fn names_are_written_once() {
    let mut zip = ZipWriter::new(Vec::new(), &TIME, 0o600);
    zip.store("a", b"").unwrap();
    assert!(zip.store("a", b"").is_err() && zip.begin("").is_err());
    assert!(zip.write_all(b"x").is_err());
}

#[test]
fn every_strict_prefix_is_refused() {
    let whole = sample();
    for length in 0..whole.len() {
        let kind = kind_of(&whole[..length]);
        assert!(matches!(kind, Some(Kind::Incomplete | Kind::Corrupt | Kind::Usage)), "{length}: {kind:?}");
    }
    assert_eq!(kind_of(&whole), None);
    assert_eq!(kind_of(&[&whole[..], b"x"].concat()), Some(Kind::Incomplete));
    assert_eq!(kind_of(&[b"x", &whole[..]].concat()), Some(Kind::Incomplete));
}

/// A guest's disk may end with a zip file, at the very place where a cut ends the archive.
#[test]
fn a_zip_file_within_is_not_taken_for_the_whole() {
    let mut zip = ZipWriter::new(Vec::new(), &TIME, 0o600);
    zip.begin("vda.full.data").unwrap();
    zip.write_all(&sample()).unwrap();
    let length = zip.output().len();
    let whole = zip.finish().unwrap();
    assert_eq!(kind_of(&whole[..length]), Some(Kind::Incomplete));
    assert_eq!(kind_of(&whole), None);
}

#[test]
fn flipped_bits_are_found_or_harm_nothing() {
    let whole = sample();
    let read = |bytes: &[u8]| -> Option<Vec<(String, Vec<u8>)>> {
        let file = file(bytes);
        let zips = Zips::open(&[file.path().to_owned()]).ok()?;
        zips.names().map(|name| Some((name.to_owned(), zips.file_called(name).read(100).ok()?))).collect()
    };
    let expected = read(&whole).unwrap();
    for position in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[position] ^= 1 << bit;
            if let Some(found) = read(&damaged) {
                assert_eq!(found, expected, "byte {position} bit {bit}");
            }
        }
    }
}

#[test]
fn compressed_members_are_refused_with_the_remedy() {
    let mut bytes = sample();
    // The method, in the first local header and in its entry of the table.
    let table = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    bytes[table + 10] = 8;
    let error = Archive::open(file(&bytes).path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.hint_text().unwrap().contains("unzip"));
    bytes[table + 10] = 0;
    bytes[8] = 8;
    assert_eq!(kind_of(&bytes), Some(Kind::Unsupported));
}

#[test]
fn several_are_one_set_if_they_do_not_contradict() {
    let zip = |members: &[(&str, &str)]| {
        let mut zip = ZipWriter::new(Vec::new(), &TIME, 0o600);
        members.iter().for_each(|(name, content)| zip.store(name, content.as_bytes()).unwrap());
        file(&zip.finish().unwrap())
    };
    let full = zip(&[("vda.full.data", "full"), ("checkpoints/0.xml", "0"), ("d.cpt", "[0]")]);
    let inc = zip(&[("vda.inc.1.data", "inc"), ("checkpoints/0.xml", "0"), ("d.cpt", "[0, 1]")]);
    let other = zip(&[("vda.full.data", "another"), ("d.cpt", "[0]")]);
    let paths = |files: &[&tempfile::NamedTempFile]| -> Vec<PathBuf> {
        files.iter().map(|file| file.path().to_owned()).collect()
    };
    for order in [[&full, &inc], [&inc, &full]] {
        let zips = Zips::open(&paths(&order)).unwrap();
        assert_eq!(zips.names().collect::<Vec<_>>(), ["checkpoints/0.xml", "d.cpt", "vda.full.data", "vda.inc.1.data"]);
        assert_eq!(zips.file_called("d.cpt").read(9).unwrap(), b"[0, 1]");
        assert_eq!(zips.file_called("vda.inc.1.data").path(), inc.path().join("vda.inc.1.data"));
    }
    let error = Zips::open(&paths(&[&full, &inc, &other])).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("vda.full.data"), "{error}");
}

/// Seeks over what is written as one block again and again: a sparse file of any size.
struct Sparse(std::fs::File);

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match bytes.iter().all(|byte| *byte == 0) {
            true => self.0.seek(SeekFrom::Current(bytes.len() as i64)).map(|_| bytes.len()),
            false => self.0.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Numbers beyond 32 bits, for us and for Info-ZIP.
#[test]
fn members_and_positions_beyond_4_gib() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut zip = ZipWriter::new(Sparse(file.reopen().unwrap()), &TIME, 0o600);
    let block = vec![0; 64 << 20];
    zip.begin("vda.full.data").unwrap();
    for _ in 0..65 {
        zip.write_all(&block).unwrap();
    }
    zip.write_all(b"end of vda").unwrap();
    zip.begin("vdb.full.data").unwrap();
    zip.write_all(b"vdb").unwrap();
    zip.store("manifest", b"last").unwrap();
    zip.finish().unwrap();

    let zips = Zips::open(&[file.path().to_owned()]).unwrap();
    let (vda, vdb) = (zips.file_called("vda.full.data"), zips.file_called("vdb.full.data"));
    let length = 65 * (64 << 20) + 10;
    assert_eq!(vda.size().unwrap(), length);
    let mut end = [0; 10];
    vda.open().unwrap().read_exact_at(&mut end, length - 10).unwrap();
    assert_eq!(&end, b"end of vda");
    assert_eq!(vdb.read(100).unwrap(), b"vdb");
    assert_eq!(zips.file_called("manifest").read(100).unwrap(), b"last");
    // Testing all of it would take a minute.
    for (name, content) in [("vdb.full.data", "vdb"), ("manifest", "last")] {
        let run = std::process::Command::new("unzip").arg("-p").arg(file.path()).arg(name).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&run.stdout), content, "{}", String::from_utf8_lossy(&run.stderr));
    }
    let list = std::process::Command::new("unzip").arg("-l").arg(file.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains(&format!("{length} ")), "{list:?}");
}

#[test]
fn unzip_takes_small_ones() {
    tested_by_unzip(file(&sample()).path());
}

#[track_caller]
fn tested_by_unzip(path: &Path) {
    let run = std::process::Command::new("unzip").arg("-t").arg(path).output().unwrap();
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
}
