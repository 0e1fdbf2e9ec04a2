//! Which libraries a program needs: read from the ELF files themselves, nothing is run.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const MAGIC: &[u8] = b"\x7fELF\x02\x01";
/// What is in the header for each processor.
const MACHINES: [(&str, u16); 4] = [("amd64", 62), ("arm64", 183), ("riscv64", 243), ("ppc64le", 21)];
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
/// Beyond it a file is no library that anybody linked.
const MOST_HEADERS: usize = 256;
const LONGEST_TABLE: u64 = 1 << 20;
const LONGEST_NAME: usize = 4096;
const MOST_LIBRARIES: usize = 256;
/// Where loaders look without being told, on Debian's and on other systems.
const USUAL: [&str; 6] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib", "/usr/local/lib64"];
/// Files of `/etc/ld.so.conf` include each other at most so deep.
const DEEPEST_INCLUDE: usize = 4;

/// What an ELF file says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Elf {
    machine: u16,
    /// The loader that starts it; a static program has none.
    pub(crate) interpreter: Option<String>,
    pub(crate) needed: Vec<String>,
    search: Vec<String>,
}

impl Elf {
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let file = fs_err::File::open(path)?;
        let bad =
            |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("`{}` {why}", path.display()));
        let at = |offset: u64, length: usize| {
            let mut bytes = vec![0; length];
            file.file().read_exact_at(&mut bytes, offset).map_err(|_| bad("is cut off"))?;
            Ok::<_, io::Error>(bytes)
        };
        let head = at(0, 64)?;
        if !head.starts_with(MAGIC) {
            return Err(bad("is no 64-bit little-endian ELF file"));
        }
        let count = usize::from(u16_at(&head, 56));
        if usize::from(u16_at(&head, 54)) != PROGRAM_HEADER || count > MOST_HEADERS {
            return Err(bad("has program headers that cannot be read"));
        }
        let table = at(u64_at(&head, 32), count * PROGRAM_HEADER)?;
        let segments: Vec<Segment> = table.chunks_exact(PROGRAM_HEADER).map(Segment::of).collect();
        let in_file = |address: u64| {
            let load = segments.iter().find(|segment| {
                segment.kind == PT_LOAD && (segment.address..segment.end()).contains(&address)
            })?;
            Some(address - load.address + load.offset)
        };
        let of_kind = |kind| segments.iter().find(|segment| segment.kind == kind);
        let text = |offset: u64| {
            // The end of the file may be nearer than the longest name.
            let mut bytes = vec![0; LONGEST_NAME];
            let read = file.file().read_at(&mut bytes, offset)?;
            let end = bytes[..read]
                .iter()
                .position(|byte| *byte == 0)
                .ok_or_else(|| bad("has a name without an end"))?;
            bytes.truncate(end);
            String::from_utf8(bytes).map_err(|_| bad("has a name that is no UTF-8"))
        };
        let interpreter = of_kind(PT_INTERP).map(|segment| text(segment.offset)).transpose()?;
        let mut elf =
            Self { machine: u16_at(&head, 18), interpreter, needed: Vec::new(), search: Vec::new() };
        let Some(dynamic) = of_kind(PT_DYNAMIC) else { return Ok(elf) };
        let entries = at(dynamic.offset, dynamic.size.min(LONGEST_TABLE) as usize)?;
        let entries: Vec<(u64, u64)> = entries
            .chunks_exact(16)
            .map(|entry| (u64_at(entry, 0), u64_at(entry, 8)))
            .take_while(|(tag, _)| *tag != DT_NULL)
            .collect();
        let strings = entries.iter().find(|(tag, _)| *tag == DT_STRTAB).and_then(|(_, at)| in_file(*at));
        let Some(strings) = strings else { return Ok(elf) };
        for (tag, value) in entries {
            let name = || text(strings.saturating_add(value));
            match tag {
                DT_NEEDED => elf.needed.push(name()?),
                DT_RPATH | DT_RUNPATH => elf.search.extend(name()?.split(':').map(str::to_owned)),
                _ => {}
            }
        }
        Ok(elf)
    }

    /// Whether a processor runs it, in Go's words; of one that is not known here, it is taken to.
    pub(crate) fn suits(&self, architecture: &str) -> bool {
        let known = MACHINES.iter().find(|(name, _)| *name == architecture);
        known.is_none_or(|(_, machine)| self.machine == *machine)
    }

    /// Nothing has to be there for it to run.
    pub(crate) fn is_static(&self) -> bool {
        self.interpreter.is_none() && self.needed.is_empty()
    }
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

impl Segment {
    fn of(header: &[u8]) -> Self {
        let kind = u32::from(u16_at(header, 0)) | u32::from(u16_at(header, 2)) << 16;
        Self { kind, offset: u64_at(header, 8), address: u64_at(header, 16), size: u64_at(header, 32) }
    }

    fn end(&self) -> u64 {
        self.address.saturating_add(self.size)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The libraries of some programs and libraries, by the names by which they are asked for, loaders included. Those that
/// are loaded by name while a program runs are known to nobody but to whoever gives them as a root.
pub(crate) fn closure(roots: &[&Path]) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut folders: Option<Vec<PathBuf>> = None;
    let mut seen: HashSet<PathBuf> = roots.iter().map(|root| (*root).to_owned()).collect();
    let mut queue: VecDeque<PathBuf> = roots.iter().map(|root| (*root).to_owned()).collect();
    while let Some(path) = queue.pop_front() {
        let elf = Elf::read(&path)?;
        if let Some(loader) = &elf.interpreter {
            found.entry(file_name(loader).to_owned()).or_insert_with(|| PathBuf::from(loader));
        }
        let folders = folders.get_or_insert_with(|| usual(elf.machine));
        let origin = path.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        let own = elf
            .search
            .iter()
            .map(|folder| PathBuf::from(folder.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin)));
        let places: Vec<PathBuf> = own.chain(folders.iter().cloned()).collect();
        for name in &elf.needed {
            if name.contains('/') || found.contains_key(name) {
                continue;
            }
            let suits = |path: &PathBuf| Elf::read(path).is_ok_and(|other| other.machine == elf.machine);
            let place = places.iter().map(|folder| folder.join(name)).find(suits).ok_or_else(|| {
                let text = format!("`{}` needs the library `{name}`, which was not found", path.display());
                io::Error::new(io::ErrorKind::NotFound, text)
            })?;
            found.insert(name.clone(), place.clone());
            if found.len() > MOST_LIBRARIES {
                return Err(io::Error::other(format!("`{}` needs too many libraries", path.display())));
            }
            if seen.insert(place.clone()) {
                queue.push_back(place);
            }
        }
    }
    Ok(found)
}

pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn usual(machine: u16) -> Vec<PathBuf> {
    let triplet = match machine {
        62 => "x86_64-linux-gnu",
        183 => "aarch64-linux-gnu",
        243 => "riscv64-linux-gnu",
        _ => "",
    };
    let mut folders = vec![PathBuf::from("/lib").join(triplet), PathBuf::from("/usr/lib").join(triplet)];
    configured(Path::new("/etc/ld.so.conf"), DEEPEST_INCLUDE, &mut folders);
    folders.extend(USUAL.iter().map(PathBuf::from));
    folders
}

/// Folders of the loader's configuration. What cannot be read names none.
fn configured(file: &Path, depth: usize, folders: &mut Vec<PathBuf>) {
    let Ok(text) = fs_err::read_to_string(file) else { return };
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        match line.strip_prefix("include") {
            Some(pattern) if depth > 0 => {
                let Some((folder, "*.conf")) = pattern.trim().rsplit_once('/') else { continue };
                let Ok(entries) = fs_err::read_dir(folder) else { continue };
                let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
                files.retain(|file| file.extension().is_some_and(|end| end == "conf"));
                files.sort();
                for file in &files {
                    configured(file, depth - 1, folders);
                }
            }
            Some(_) => {}
            None if line.starts_with('/') => folders.push(PathBuf::from(line)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_needs_what_its_loader_found() {
        let own = std::env::current_exe().unwrap();
        let elf = Elf::read(&own).unwrap();
        assert!(!elf.is_static());
        let found = closure(&[&own]).unwrap();
        assert!(found.contains_key("libc.so.6"), "{found:?}");
        assert!(found.contains_key(file_name(elf.interpreter.as_deref().unwrap())), "{found:?}");
        assert!(found.values().all(|path| path.is_file()));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("text");
        for content in [&b""[..], &[b'x'; 100], b"\x7fELF\x02\x01"] {
            fs_err::write(&file, content).unwrap();
            assert!(Elf::read(&file).is_err());
        }
    }
}
