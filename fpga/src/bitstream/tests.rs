//! Bitstreams that are whole, and every way in which they may not be.

use std::collections::BTreeMap;

use super::*;
use crate::device::Device;

fn device() -> Device {
    Device {
        platform: "Portable Computing Language".to_owned(),
        platform_version: "OpenCL 3.0 PoCL 3.1".to_owned(),
        driver: "3.1".to_owned(),
        name: "pthread".to_owned(),
        index: 0,
        kind: "CPU".to_owned(),
        class: DeviceClass::Emulation,
        memory: 1 << 30,
        largest_buffer: 1 << 28,
        units: 2,
    }
}

fn contents() -> (Manifest, BTreeMap<String, Vec<u8>>) {
    let files: BTreeMap<String, Vec<u8>> = [
        ("img/pocl.bin", &b"kernel code"[..]),
        ("golden/add/program.json", b"{}"),
        ("golden/add/constants", b""),
        ("golden/add/inputs", b"\0\0\0\0"),
    ]
    .map(|(name, content)| (name.to_owned(), content.to_vec()))
    .into();
    let file = |name: &str| File::of(name, &files[name]);
    let arch = Architecture {
        name: "v16t14_f32".to_owned(),
        vec: 16,
        lane_tile: 14,
        acc: "i32".to_owned(),
        act: vec!["f32".to_owned()],
        k_block_i8: 1024,
        k_block_u8: 512,
    };
    let manifest = Manifest {
        schema: SCHEMA,
        id: "org.moorline.test".to_owned(),
        version: "1.2.0".to_owned(),
        arch_fingerprint: arch.fingerprint(KERNEL_ABI),
        arch,
        abi: KERNEL_ABI,
        numerics: vec!["f32-fma-v1".to_owned()],
        ops: vec![Op {
            op: "Add".to_owned(),
            numerics: vec!["f32-fma-v1".to_owned()],
            limits: BTreeMap::from([("rank".to_owned(), Limit { at_most: Some(4), ..Limit::default() })]),
        }],
        kernels: vec![Kernel { name: "add".to_owned(), arguments: Vec::new() }],
        images: vec![Image {
            binary: file("img/pocl.bin"),
            class: DeviceClass::Emulation,
            target: ImageTarget::Device {
                platform: "Portable Computing Language".to_owned(),
                driver: "3.1".to_owned(),
                device: "pthread".to_owned(),
            },
            env: BTreeMap::from([("POCL_WORK_GROUP_SPECIALIZATION".to_owned(), "0".to_owned())]),
        }],
        golden: vec![Golden {
            name: "add".to_owned(),
            program: file("golden/add/program.json"),
            constants: file("golden/add/constants"),
            inputs: file("golden/add/inputs"),
            outputs: vec![moorline_core::Digest::of(b"\0\0\0\0")],
        }],
        source: None,
        expires: None,
    };
    (manifest, files)
}

fn now() -> jiff::Timestamp {
    "2026-11-30T12:00:00Z".parse().unwrap()
}

struct Case {
    key: SigningKey,
    bytes: Vec<u8>,
}

impl Case {
    fn new(change: impl FnOnce(&mut Manifest)) -> Result<Self, BitstreamError> {
        let (mut manifest, files) = contents();
        change(&mut manifest);
        let key = SigningKey::generate()?;
        let mut bytes = Vec::new();
        pack(&manifest, &files, &key, &mut bytes)?;
        Ok(Self { key, bytes })
    }

    fn open(&self) -> Result<Bitstream, BitstreamError> {
        Bitstream::open(&self.bytes[..], &[self.key.public()], now())
    }

    /// Changes the bytes that equal `from`, wherever they are first.
    fn replace(&mut self, from: &[u8], to: &[u8]) {
        assert_eq!(from.len(), to.len());
        let at = self.bytes.windows(from.len()).position(|window| window == from).unwrap();
        self.bytes[at..at + to.len()].copy_from_slice(to);
    }
}

#[test]
fn what_is_packed_is_read_again_and_packed_the_same() {
    let case = Case::new(|_| {}).unwrap();
    let bitstream = case.open().unwrap();
    let (manifest, files) = contents();
    assert_eq!(bitstream.manifest(), &manifest);
    assert_eq!(bitstream.signer(), case.key.public().id());
    for file in manifest.files() {
        assert_eq!(&bitstream.content(file)[..], &files[&file.file][..]);
    }
    let mut again = Vec::new();
    pack(&manifest, &files, &case.key, &mut again).unwrap();
    assert_eq!(again, case.bytes, "the same contents are the same bytes");
}

#[test]
fn only_a_trusted_key_makes_a_bitstream() {
    let case = Case::new(|_| {}).unwrap();
    let foreign = SigningKey::generate().unwrap().public();
    for trusted in [&[][..], &[foreign]] {
        let error = Bitstream::open(&case.bytes[..], trusted, now()).unwrap_err();
        assert!(matches!(error, BitstreamError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains(&case.key.public().id()), "{error}");
    }
    Bitstream::open(&case.bytes[..], &[foreign, case.key.public()], now()).unwrap();
    Unverified::read(&case.bytes[..]).unwrap();
}

#[test]
fn a_manifest_that_was_changed_is_refused_before_it_is_read() {
    let mut case = Case::new(|_| {}).unwrap();
    case.replace(b"\"1.2.0\"", b"\"1.3.0\"");
    assert!(matches!(case.open(), Err(BitstreamError::Signature)));
    let mut case = Case::new(|_| {}).unwrap();
    case.replace(b"\"schema\"", b"\"schemo\"");
    assert!(matches!(case.open(), Err(BitstreamError::Signature)));
}

#[test]
fn a_file_that_was_changed_is_named() {
    let mut case = Case::new(|_| {}).unwrap();
    case.replace(b"kernel code", b"kernel core");
    let error = case.open().unwrap_err();
    assert!(matches!(&error, BitstreamError::Damaged { file, .. } if file == "img/pocl.bin"), "{error}");
}

#[test]
fn every_cut_and_every_flipped_bit_is_an_error_and_never_a_panic() {
    let case = Case::new(|_| {}).unwrap();
    let whole = case.bytes.len();
    // The end of a tar is two empty blocks, which carry nothing.
    for length in (0..whole - 1024).step_by(97) {
        let cut = Bitstream::open(&case.bytes[..length], &[case.key.public()], now());
        assert!(cut.is_err(), "cut at {length}");
    }
    for at in (0..whole - 1024).step_by(31) {
        let mut bytes = case.bytes.clone();
        bytes[at] ^= 0x10;
        // Padding, owners and the like may change without harm; what was packed may not.
        if let Ok(bitstream) = Bitstream::open(&bytes[..], &[case.key.public()], now()) {
            assert_eq!(bitstream.manifest(), &contents().0);
        }
    }
}

#[test]
fn an_archive_names_no_path_outside_itself() {
    for name in ["../escape", "/etc/passwd", "img//x", "img/..", ".", "", "a\\b", "manifest.json", "a b"] {
        let error = Case::new(|manifest| manifest.images[0].binary.file = name.to_owned()).err().unwrap();
        assert!(matches!(error, BitstreamError::Contradiction { .. }), "{name}: {error}");
    }
}

#[test]
fn links_and_strangers_are_refused() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    archive.append_link(&mut header, "manifest.json", "/etc/passwd").unwrap();
    let bytes = archive.into_inner().unwrap();
    assert!(matches!(Unverified::read(&bytes[..]), Err(BitstreamError::Archive { .. })));

    let case = Case::new(|_| {}).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    archive.append_data(&mut header, "stranger", &b"x"[..]).unwrap();
    let mut bytes = case.bytes[..case.bytes.len() - 1024].to_vec();
    bytes.extend(archive.into_inner().unwrap());
    let error = Unverified::read(&bytes[..]).unwrap_err();
    assert!(error.to_string().contains("more files than its manifest names"), "{error}");
}

#[test]
fn a_size_that_lies_costs_no_memory() {
    let error = Case::new(|manifest| manifest.images[0].binary.size = u64::MAX).err().unwrap();
    assert!(matches!(error, BitstreamError::Contradiction { .. }), "{error}");
    let mut bytes = Vec::new();
    let mut header = tar::Header::new_gnu();
    header.set_path("manifest.json").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    bytes.extend(header.as_bytes());
    assert!(matches!(Unverified::read(&bytes[..]), Err(BitstreamError::TooLarge { .. })));
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    type Change = fn(&mut Manifest);
    let changes: [(&str, Change); 8] = [
        ("fingerprint", |m| m.arch.vec = 8),
        ("contract", |m| m.ops[0].numerics.push("i8-rne-v1".to_owned())),
        ("name of a kernel", |m| m.kernels.push(m.kernels[0].clone())),
        ("name of a kernel", |m| m.kernels[0].name = "a\0b".to_owned()),
        ("LD_PRELOAD", |m| {
            m.images[0].env.insert("LD_PRELOAD".to_owned(), "x.so".to_owned());
        }),
        ("0 images", |m| m.images.clear()),
        ("three numbers", |m| m.version = "1.2".to_owned()),
        ("expects no output", |m| m.golden[0].outputs.clear()),
    ];
    for (words, change) in changes {
        let error = Case::new(change).err().unwrap();
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    assert!(matches!(Case::new(|m| m.schema = 2).err().unwrap(), BitstreamError::Schema { found: 2, .. }));
    assert!(matches!(Case::new(|m| m.abi = 99).err().unwrap(), BitstreamError::Abi { found: 99, .. }));
}

#[test]
fn a_bitstream_ends_with_its_time() {
    let expires = |text: &str| Some(text.parse().unwrap());
    let case = Case::new(|m| m.expires = expires("2026-11-30T12:00:00Z")).unwrap();
    assert!(matches!(case.open(), Err(BitstreamError::Expired { .. })));
    Case::new(|m| m.expires = expires("2026-11-30T12:00:01Z")).unwrap().open().unwrap();
}

#[test]
fn an_image_is_for_one_device_under_one_driver() {
    let (manifest, _) = contents();
    assert_eq!(manifest.image_for(&device()).unwrap().binary.file, "img/pocl.bin");
    for other in [
        Device { driver: "5.0".to_owned(), ..device() },
        Device { name: "basic".to_owned(), ..device() },
        Device { platform: "Xilinx".to_owned(), ..device() },
        Device { class: DeviceClass::Hardware, ..device() },
    ] {
        let error = manifest.image_for(&other).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, BitstreamError::NoImage { .. }));
        for word in [&other.name, &other.driver, "pthread", "`3.1`"] {
            assert!(text.contains(word), "expected and found are told: {text}");
        }
    }
}

#[test]
fn a_model_is_bound_to_the_architecture() {
    let bitstream = Case::new(|_| {}).unwrap().open().unwrap();
    let (manifest, _) = contents();
    bitstream.expect(manifest.fingerprint()).unwrap();
    assert!(matches!(bitstream.expect("00"), Err(BitstreamError::Fingerprint { .. })));
    let mut other = manifest.arch.clone();
    other.lane_tile = 7;
    assert_ne!(other.fingerprint(KERNEL_ABI), manifest.arch_fingerprint);
    assert_ne!(manifest.arch.fingerprint(KERNEL_ABI + 1), manifest.arch_fingerprint);
}

#[test]
fn limits_bound_what_they_name() {
    let limit = Limit { at_least: Some(1), at_most: Some(9), one_of: Some(vec![1, 3, 11]) };
    let admitted: Vec<i64> = (-1..20).filter(|value| limit.admits(*value)).collect();
    assert_eq!(admitted, [1, 3]);
    assert!(Limit::default().admits(i64::MAX));
}

#[test]
fn an_image_is_added_or_takes_the_place_of_the_one_for_its_target() {
    let case = Case::new(|_| {}).unwrap();
    let bitstream = case.open().unwrap();
    let board = ImageTarget::Board {
        platform: "Xilinx".to_owned(),
        board: "xilinx_u250".to_owned(),
        interface_uuid: "1234".to_owned(),
    };
    let image = |content: &[u8], target: &ImageTarget| Compiled {
        binary: content.to_vec(),
        class: DeviceClass::Hardware,
        target: target.clone(),
        env: BTreeMap::new(),
    };
    let (manifest, files) = bitstream.with_image(image(b"xclbin", &board)).unwrap();
    let mut bytes = Vec::new();
    pack(&manifest, &files, &case.key, &mut bytes).unwrap();
    let two = Bitstream::open(&bytes[..], &[case.key.public()], now()).unwrap();
    assert_eq!(two.manifest().images.len(), 2);
    assert_eq!(&two.content(&two.manifest().images[1].binary)[..], b"xclbin");
    assert_eq!(two.manifest().golden, bitstream.manifest().golden);
    let of_board =
        |class| Device { platform: "Xilinx".to_owned(), name: "xilinx_u250".to_owned(), class, ..device() };
    let hardware = of_board(DeviceClass::Hardware);
    assert_eq!(two.manifest().image_for(&hardware).unwrap().class, DeviceClass::Hardware);
    assert!(two.manifest().image_for(&of_board(DeviceClass::Emulation)).is_err());
    let (again, files) = two.with_image(image(b"newer", &board)).unwrap();
    assert_eq!(again.images.len(), 2);
    assert_eq!(files[&again.images[1].binary.file], b"newer");
}
