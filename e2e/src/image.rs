//! Container images made on the spot: no registry can be reached from a scenario.
//!
//! An image is Debian's static busybox with a link for every applet, and a few
//! files. Its web server is `busybox httpd`; `busybox wget` must not be used (the
//! static one crashes while it resolves names).

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::answer;

/// The static busybox of Debian's package busybox-static.
const BUSYBOX: &str = "/bin/busybox";

/// A root file system in a tar file, and what the image made of it is called.
#[derive(Debug, Clone)]
pub struct Image {
    /// Name and tag, such as `localhost/hello:v1`.
    pub name: String,
    /// The root file system.
    pub archive: PathBuf,
}

/// Builds `name` in `folder` unless it is there, with extra files (path in the
/// image, content).
///
/// # Errors
/// When busybox is not installed or the folder cannot be written.
pub async fn build(folder: &Path, name: &str, files: &[(&str, &str)]) -> Result<Image> {
    let file = format!("{}.tar", name.replace(['/', ':'], "_"));
    let archive = folder.join(file);
    let image = Image { name: name.to_owned(), archive: archive.clone() };
    if archive.exists() {
        return Ok(image);
    }
    fs::create_dir_all(folder)?;
    let root = tempfile::tempdir_in(folder)?;
    fill(root.path(), files).await?;
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
    let partial = archive.with_extension("partial");
    let (from, to) = (root.path().display().to_string(), partial.display().to_string());
    answer::run("tar", ["--create", "--file", &to, "--directory", &from, "--owner=0", "--group=0", "."])
        .await?;
    fs::rename(partial, archive)?;
    Ok(image)
}

/// `localhost/hello:<tag>`: the image of examples and scenarios. It serves
/// `/www/index.html` on port 8080 when nothing else is asked of it.
///
/// # Errors
/// As [`build`].
pub async fn hello(folder: &Path, tag: &str) -> Result<Image> {
    let page = format!("hello from version {tag}\n");
    let files = [("etc/version", format!("{tag}\n")), ("www/index.html", page)];
    let files: Vec<_> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    build(folder, &format!("localhost/hello:{tag}"), &files).await
}

async fn fill(root: &Path, files: &[(&str, &str)]) -> Result<()> {
    for folder in ["bin", "etc", "tmp", "www", "var", "root", "run"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::copy(BUSYBOX, root.join("bin/busybox"))
        .with_context(|| format!("{BUSYBOX} is missing; run e2e/tools/install.sh"))?;
    for applet in answer::run(BUSYBOX, ["--list"]).await?.lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    for (path, text) in files {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)?;
    }
    Ok(())
}
