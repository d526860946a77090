//! Copies of files and folders, out and in.

use super::*;

fn tree(root: &Path) {
    std::fs::create_dir_all(root.join("sub/deep")).unwrap();
    std::fs::write(root.join("sub/file"), vec![7; 1_500_000]).unwrap();
    std::fs::write(root.join("sub/deep").join("x".repeat(180)), b"long name").unwrap();
    std::os::unix::fs::symlink("sub/file", root.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", root.join("sub/outside")).unwrap();
}

#[tokio::test]
async fn copies_go_out_and_in_again_as_they_were() {
    let agent = Agent::start();
    let client = agent.client().await;
    let (source, target) = (agent.path("source"), agent.path("target"));
    tree(&source);
    std::fs::create_dir(&target).unwrap();
    let mut tar = Vec::new();
    client
        .copy_out(source.to_str().unwrap())
        .await
        .unwrap()
        .read_to_end(&mut tar)
        .await
        .unwrap();
    let sent = client
        .copy_in(target.to_str().unwrap(), &tar[..])
        .await
        .unwrap();
    assert_eq!(sent, tar.len() as u64);
    let same = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(&source)
        .arg(target.join("source"))
        .output()
        .unwrap();
    assert!(
        same.status.success(),
        "{}",
        String::from_utf8_lossy(&same.stdout)
    );
    let link = std::fs::read_link(target.join("source/sub/outside")).unwrap();
    assert_eq!(link, Path::new("/etc/shadow"));

    let missing = client.copy_out("/no/such/thing").await.unwrap_err();
    assert!(
        matches!(
            missing,
            ClientError::Refused {
                code: ErrorCode::NotFound,
                ..
            }
        ),
        "{missing}"
    );
    let file = client
        .stat(source.join("link").to_str().unwrap())
        .await
        .unwrap();
    assert_eq!(
        (file.kind, file.link_target.as_deref()),
        (PathKind::Symlink, Some("sub/file"))
    );
    let cut = client
        .copy_in(target.to_str().unwrap(), &tar[..tar.len() / 2])
        .await
        .unwrap_err();
    assert!(
        matches!(cut, ClientError::Copy { .. }),
        "half a stream is no whole one: {cut}"
    );
}

#[tokio::test]
async fn a_tar_stream_cannot_write_outside_of_its_folder() {
    let agent = Agent::start();
    let client = agent.client().await;
    let target = agent.path("target");
    std::fs::create_dir(&target).unwrap();
    let outside = agent.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, target.join("trap")).unwrap();
    for name in ["../escaped", "trap/escaped"] {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, &b"bad"[..]).unwrap();
        let tar = builder.into_inner().unwrap();
        let error = client
            .copy_in(target.to_str().unwrap(), &tar[..])
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Copy { .. }), "{name}: {error}");
    }
    assert!(!agent.path("escaped").exists());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}
