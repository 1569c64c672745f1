//! Files as a whole, in a real folder.

use super::*;

#[test]
fn an_emptied_file_is_told_of() {
    with_folder(
        &[("a.yaml", &pod("a", "10.0.0.1")), ("b.yaml", &pod("b", "10.0.0.2"))],
        |folder| async move {
            folder.write("a.yaml", "");
            folder.eventually("its pod is gone", || !folder.has_pod("a")).await;
            folder.eventually("it is told", || !folder.problems().is_empty()).await;
            assert_eq!(
                folder.problems(),
                [
                    "warning a.yaml: is empty, so the object that it held is gone: write them into it again, or delete the file if that was meant"
                ]
            );
            folder.write("a.yaml", &pod("a", "10.0.0.1"));
            folder
                .eventually("it is there again", || folder.has_pod("a") && folder.problems().is_empty())
                .await;
        },
    );
}

#[test]
fn a_policy_in_a_new_file_that_is_no_utf8_denies() {
    with_folder(&[("a.yaml", &pod("a", "10.0.0.1"))], |folder| async move {
        fs::write(folder.path("p.yaml"), [ALLOW_GET.as_bytes(), b"# \xff\n"].concat()).unwrap();
        folder.eventually("it is reported", || !folder.problems().is_empty()).await;
        assert!(folder.problems()[0].starts_with("unread p.yaml: is not UTF-8"), "{:?}", folder.problems());
        let snapshot = folder.snapshot();
        let faults = snapshot.authorization_policies().map(|policy| policy.fault.is_some());
        assert_eq!(faults.collect::<Vec<_>>(), [true]);
        assert_eq!(folder.registry.render().unwrap().matches("effect=\"unread\"} 1").count(), 1);
        folder.write("p.yaml", ALLOW_GET);
        folder.eventually("it is mended", || folder.problems().is_empty()).await;
    });
}

#[test]
fn it_is_told_what_is_being_read() {
    with_folder(&[("a.yaml", &pod("a", "10.0.0.1"))], |folder| async move {
        let pods = |count: usize| (0..count).map(|index| pod(&format!("p{index}"), "10.0.0.2") + "---\n");
        folder.write("large.yaml", &pods(5000).collect::<String>());
        let mut seen = None;
        folder
            .eventually("it is being read", || {
                seen = folder.publication.being_read();
                seen.is_some()
            })
            .await;
        let files: Vec<_> = seen.unwrap().files.iter().map(ToString::to_string).collect();
        assert_eq!(files, ["large.yaml"]);
        assert!(!folder.has_pod("p0"), "what is being read is not in force");
        folder.eventually("it was read", || folder.publication.being_read().is_none()).await;
        assert!(folder.has_pod("p0"));
    });
}
