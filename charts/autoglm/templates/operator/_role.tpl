{{/* A Role of the operator with its binding: (list . NAME NAMESPACE RULES). */}}
{{- define "autoglm.role" -}}
{{- $top := index . 0 }}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ index . 1 }}
  namespace: {{ index . 2 }}
  labels:
    {{- include "autoglm.labels" $top | nindent 4 }}
    app.kubernetes.io/component: operator
rules:
  {{- toYaml (index . 3) | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ index . 1 }}
  namespace: {{ index . 2 }}
  labels:
    {{- include "autoglm.labels" $top | nindent 4 }}
    app.kubernetes.io/component: operator
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ index . 1 }}
subjects:
  - kind: ServiceAccount
    name: {{ include "autoglm.operator.account" $top }}
    namespace: {{ $top.Release.Namespace }}
{{- end }}
