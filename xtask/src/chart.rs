//! The Helm chart: the manifests, with values where clusters differ.
//!
//! In: `manifests/`. Out: the templates and definitions of `manifests/chart`, whose values, schema and helpers are written
//! by hand. Text is replaced, so that comments stay. A text that is not there as often as it is to be fails: a
//! manifest that changes cannot lose a value in silence.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// A text of a manifest, how often it is there, and what the chart has in its place.
type Edit = (&'static str, usize, &'static str);

/// A file of the chart.
struct Template {
    /// Below `manifests/`.
    from: &'static str,
    /// Below `manifests/chart/`.
    to: &'static str,
    /// The value that turns it on; empty if nothing does.
    when: &'static str,
    edits: &'static [Edit],
}

const IMAGE: &str = concat!("image: nodemesh.dev/mesh-node:", env!("CARGO_PKG_VERSION"), "\n");
const VALUE_IMAGE: &str = "image: {{ include \"nodemesh.image\" . }}\n";
const PULL: &str = "imagePullPolicy: IfNotPresent\n";
const VALUE_PULL: &str = "imagePullPolicy: {{ .Values.image.pullPolicy }}\n";
const NAMESPACE: &str = "namespace: nodemesh-system\n";
const VALUE_NAMESPACE: &str = "namespace: {{ .Release.Namespace }}\n";
const NODES: &str = "nodeSelector: {kubernetes.io/os: linux, kubernetes.io/arch: amd64}\n";
const CONTROLLER_NODES: &str = "nodeSelector: {{- toYaml .Values.controller.nodeSelector | nindent 8 }}\n";
// The hold's too: where no agent runs, new pods would wait for one.
const AGENT_NODES: &str = "nodeSelector: {{- toYaml .Values.agent.nodeSelector | nindent 8 }}\n";
const ENVIRONMENT: &str = "          env:\n";
const VALUE_ENVIRONMENT: &str =
    "          env:\n            {{- include \"nodemesh.environment\" . | nindent 12 }}\n";
// With more of the program's environment behind it, and so any of its flags.
const CONTROLLER_ENVIRONMENT: &str = "          env:
            {{- include \"nodemesh.environment\" . | nindent 12 }}
            {{- with .Values.controller.signerName }}
            - name: NODEMESH_SIGNER_NAME
              value: {{ . | quote }}
            {{- end }}
            {{- with .Values.controller.env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
";
const AGENT_ENVIRONMENT: &str = "          env:
            {{- include \"nodemesh.environment\" . | nindent 12 }}
            {{- with .Values.agent.env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
";

const TEMPLATES: &[Template] = &[
    Template { from: "foundation/crds.yaml", to: "crds/crds.yaml", when: "", edits: &[] },
    Template { from: "base/roles.yaml", to: "templates/roles.yaml", when: "", edits: &[] },
    Template { from: "base/admission.yaml", to: "templates/admission.yaml", when: "", edits: &[] },
    Template {
        from: "foundation/agent-account.yaml",
        to: "templates/agent-account.yaml",
        when: "",
        edits: &[
            (NAMESPACE, 4, VALUE_NAMESPACE),
            ("resourceNames: [nodemesh-system]\n", 1, "resourceNames: [{{ .Release.Namespace }}]\n"),
            // An agent that stops has a question while the release goes.
            ("  labels:\n", 3, "  annotations:\n    helm.sh/resource-policy: keep\n  labels:\n"),
        ],
    },
    Template {
        from: "base/controller.yaml",
        to: "templates/controller.yaml",
        when: "",
        edits: &[
            (NAMESPACE, 9, VALUE_NAMESPACE),
            (IMAGE, 1, VALUE_IMAGE),
            (PULL, 1, VALUE_PULL),
            (ENVIRONMENT, 1, CONTROLLER_ENVIRONMENT),
            (NODES, 1, CONTROLLER_NODES),
            ("  replicas: 2\n", 1, "  replicas: {{ .Values.controller.replicas }}\n"),
            (
                "          resources:
            requests:
              cpu: 100m
              memory: 128Mi
            limits:
              # More than the objects of the largest cluster take: what grows beyond is a fault.
              memory: 2Gi
",
                1,
                "          resources: {{- toYaml .Values.controller.resources | nindent 12 }}\n",
            ),
        ],
    },
    Template {
        from: "base/agent.yaml",
        to: "templates/agent.yaml",
        when: "",
        edits: &[
            (NAMESPACE, 2, VALUE_NAMESPACE),
            (IMAGE, 1, VALUE_IMAGE),
            (PULL, 1, VALUE_PULL),
            (ENVIRONMENT, 1, AGENT_ENVIRONMENT),
            (NODES, 1, AGENT_NODES),
            (
                "          resources:
            requests: {cpu: 100m, memory: 64Mi}
            # Processor time without a limit: what it is denied, the pods of the node wait for.
            limits: {memory: 1Gi}
",
                1,
                "          resources: {{- toYaml .Values.agent.resources | nindent 12 }}\n",
            ),
        ],
    },
    Template {
        from: "overlays/signing-requests/requests.yaml",
        to: "templates/signing-requests.yaml",
        when: ".Values.controller.signerName",
        edits: &[
            (NAMESPACE, 1, VALUE_NAMESPACE),
            (
                "resourceNames: [signer.example/mesh]\n",
                1,
                "resourceNames: [{{ .Values.controller.signerName | quote }}]\n",
            ),
        ],
    },
    Template {
        from: "hold/hold.yaml",
        to: "templates/hold.yaml",
        when: ".Values.hold.enabled",
        edits: &[
            (NAMESPACE, 1, VALUE_NAMESPACE),
            (IMAGE, 1, VALUE_IMAGE),
            (PULL, 1, VALUE_PULL),
            (ENVIRONMENT, 1, VALUE_ENVIRONMENT),
            (NODES, 1, AGENT_NODES),
        ],
    },
    Template {
        from: "overlays/prometheus-operator/pod-monitor.yaml",
        to: "templates/pod-monitor.yaml",
        when: ".Values.podMonitor.enabled",
        edits: &[(NAMESPACE, 1, VALUE_NAMESPACE)],
    },
];

/// Every file of the chart that is made, by its name in the repository, and its text.
pub fn files() -> Result<Vec<(String, String)>> {
    let manifests = workspace::root().join("manifests");
    let file = |template: &Template| {
        let path = manifests.join(template.from);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok((format!("manifests/chart/{}", template.to), render(template, &text)?))
    };
    TEMPLATES.iter().map(file).collect()
}

fn render(template: &Template, manifest: &str) -> Result<String> {
    let Template { from, when, edits, .. } = template;
    ensure!(!manifest.contains("{{"), "manifests/{from} has {{{{, which is Helm's");
    let mut text = manifest.to_owned();
    for (old, times, new) in *edits {
        let found = text.matches(old).count();
        ensure!(
            found == *times,
            "manifests/{from} has {old:?} {found} times and not {times}: mend xtask/src/chart.rs too"
        );
        text = text.replace(old, new);
    }
    let note = format!("# Written by `cargo xtask docs` from manifests/{from}: change it there.\n");
    Ok(if when.is_empty() {
        note + &text
    } else {
        format!("{{{{- if {when} }}}}\n{note}{text}{{{{- end }}}}\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: Template =
        Template { from: "a.yaml", to: "b.yaml", when: ".Values.a", edits: &[("a: 1\n", 1, "a: {{ 2 }}\n")] };

    #[test]
    fn a_text_is_replaced_and_turned_on_by_its_value() {
        let text = render(&TEMPLATE, "# why\na: 1\n").unwrap();
        assert!(text.starts_with("{{- if .Values.a }}\n#"), "{text}");
        assert!(text.ends_with("# why\na: {{ 2 }}\n{{- end }}\n"), "{text}");
    }

    #[test]
    fn a_text_that_is_not_there_or_not_as_often_fails() {
        for manifest in ["b: 1\n", "a: 1\na: 1\n", "a: 1\nb: '{{'\n"] {
            assert!(render(&TEMPLATE, manifest).is_err(), "{manifest}");
        }
    }

    #[test]
    fn every_manifest_becomes_its_part_of_the_chart() {
        assert_eq!(files().unwrap().len(), TEMPLATES.len());
    }
}
