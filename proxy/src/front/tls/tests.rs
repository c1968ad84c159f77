//! Certificates as files on a disk that change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pierhead_config::{CertificateFiles, Ciphers, ClientAuthority, TlsVersion};
use rcgen::generate_simple_self_signed;

use super::{Termination, Tls};

pub(super) fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

pub(super) fn pair(folder: &Path, host: &str) -> CertificateFiles {
    let made = generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    CertificateFiles {
        cert: write(folder, &format!("{host}.crt"), &made.cert.pem()),
        key: write(folder, &format!("{host}.key"), &made.signing_key.serialize_pem()),
    }
}

pub(super) fn settings(certificates: Vec<CertificateFiles>, directory: Option<&Path>) -> Tls {
    Tls {
        certificates,
        directory: directory.map(Path::to_owned),
        strict_sni: false,
        min_version: TlsVersion::Tls12,
        ciphers: Ciphers::Intermediate,
        client_ca: None,
        watch: Duration::from_secs(10),
    }
}

fn names(termination: &Termination) -> Vec<String> {
    termination.certificates().iter().map(|certificate| certificate.names.join(",")).collect()
}

#[test]
fn what_is_wrong_is_named_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (pair(folder.path(), "one"), pair(folder.path(), "two"));
    let text = write(folder.path(), "text.pem", "not PEM at all");
    let broken = write(folder.path(), "broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let cut = write(folder.path(), "cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let absent = folder.path().join("absent.pem");
    let made = std::process::Command::new("openssl").args(["genrsa", "1024"]).output().unwrap();
    let short = write(folder.path(), "short.pem", &String::from_utf8(made.stdout).unwrap());
    for (cert, key, expected) in [
        (&one.cert, &two.key, format!("{}: is not the key of {}", two.key.display(), one.cert.display())),
        (&one.cert, &short, format!("{}: cannot be used; a key must be RSA of at least 2048 bits", short.display())),
        (&text, &one.key, format!("{}: holds no certificate", text.display())),
        (&broken, &one.key, format!("{}: not a usable certificate", broken.display())),
        (&cut, &one.key, format!("{}: not PEM", cut.display())),
        (&absent, &one.key, format!("{}: No such file", absent.display())),
        (&one.cert, &text, format!("{}: holds no private key", text.display())),
        (&one.cert, &absent, format!("{}: No such file", absent.display())),
    ] {
        let files = vec![CertificateFiles { cert: cert.clone(), key: key.clone() }];
        let error = Termination::new(&settings(files, None), None).err().unwrap().to_string();
        assert!(error.starts_with(&expected), "{error} instead of {expected}");
    }
    let mut settings = settings(vec![one], None);
    for file in [&text, &absent] {
        settings.client_ca = Some(ClientAuthority { file: file.clone(), required: true });
        assert!(Termination::new(&settings, None).is_err(), "{file:?}");
    }
}

#[test]
fn a_directory_holds_certificates_with_their_keys() {
    let (folder, first) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let nothing = Termination::new(&settings(Vec::new(), Some(folder.path())), None);
    assert!(nothing.err().unwrap().to_string().ends_with("holds no certificate with a key"));
    pair(folder.path(), "b.example");
    let both = generate_simple_self_signed(vec!["a.example".to_owned(), "*.a.example".to_owned()]).unwrap();
    write(folder.path(), "a.pem", &format!("{}{}", both.cert.pem(), both.signing_key.serialize_pem()));
    write(folder.path(), "ca.crt", &generate_simple_self_signed(Vec::new()).unwrap().cert.pem());
    write(folder.path(), ".hidden.crt", "no certificate");
    write(folder.path(), "notes.txt", "no certificate");
    let named = pair(first.path(), "first.example");
    let termination = Termination::new(&settings(vec![named], Some(folder.path())), None).unwrap();
    assert_eq!(names(&termination), ["first.example", "a.example,*.a.example", "b.example"]);
    write(folder.path(), "c.crt", "no certificate");
    assert!(termination.renew().is_err());
    assert_eq!(names(&termination).len(), 3, "the old ones serve on");
}

#[test]
fn directories_that_are_swapped_as_a_whole_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    for version in ["one", "two"] {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        let files = pair(&folder.path().join(version), &format!("{version}.example"));
        std::fs::rename(files.cert, folder.path().join(version).join("tls.crt")).unwrap();
        std::fs::rename(files.key, folder.path().join(version).join("tls.key")).unwrap();
    }
    let point_at = |version: &str| {
        std::os::unix::fs::symlink(version, folder.path().join("..new")).unwrap();
        std::fs::rename(folder.path().join("..new"), folder.path().join("..data")).unwrap();
    };
    point_at("one");
    for file in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(Path::new("..data").join(file), folder.path().join(file)).unwrap();
    }
    let files = CertificateFiles { cert: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
    for settings in [settings(vec![files], None), settings(Vec::new(), Some(folder.path()))] {
        point_at("one");
        let termination = Termination::new(&settings, None).unwrap();
        assert_eq!(names(&termination), ["one.example"]);
        assert!(!termination.renew().unwrap());
        point_at("two");
        assert!(termination.renew().unwrap());
        assert_eq!(names(&termination), ["two.example"]);
    }
}

#[test]
fn sessions_go_on_only_under_the_same_authority() {
    let folder = tempfile::tempdir().unwrap();
    let files = pair(folder.path(), "one");
    let (ca, other_ca) = (pair(folder.path(), "ca").cert, pair(folder.path(), "other").cert);
    let with = |file: &Path, required: bool| Tls {
        client_ca: Some(ClientAuthority { file: file.to_owned(), required }),
        ..settings(vec![files.clone()], None)
    };
    let open = settings(vec![files.clone()], None);
    let other_certificate = settings(vec![pair(folder.path(), "two")], None);
    for (before, after, same) in [
        (&open, &open, true),
        (&open, &other_certificate, true),
        (&open, &with(&ca, true), false),
        (&with(&ca, true), &with(&ca, true), true),
        (&with(&ca, false), &with(&ca, true), false),
        (&with(&ca, true), &with(&other_ca, true), false),
        (&with(&ca, true), &open, false),
    ] {
        let before = Termination::new(before, None).unwrap();
        let after = Termination::new(after, Some(&before)).unwrap();
        let kept = Arc::ptr_eq(&before.config().ticketer, &after.config().ticketer)
            && Arc::ptr_eq(&before.config().session_storage, &after.config().session_storage);
        assert_eq!(kept, same);
    }
}
