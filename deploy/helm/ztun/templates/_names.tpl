{{- define "ztun.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "ztun.account" -}}
{{ .Values.agent.serviceAccount | default (ternary "ztunnel" "ztun-agent" (ne .Values.istiod.address "")) }}
{{- end }}

{{/* HOST:PORT of who is asked for discovery and certificates. */}}
{{- define "ztun.controlPlane" -}}
{{ .Values.istiod.address | default (printf "ztun-control-plane.%s.svc:15012" .Release.Namespace) }}
{{- end }}

{{/* Never captured, and started without the agent: what it needs itself is among them. */}}
{{- define "ztun.excluded" -}}
{{ join "," (uniq (append .Values.agent.excludedNamespaces .Release.Namespace)) }}
{{- end }}

{{- define "ztun.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* What the agent has on its node, and whoever takes its things away. */}}
{{- define "ztun.nodeVolumes" -}}
- name: bpffs
  hostPath:
    path: /sys/fs/bpf
    type: Directory
- name: netns
  hostPath:
    path: /run/netns
    type: DirectoryOrCreate
- name: run
  hostPath:
    path: /run/ztun
    type: DirectoryOrCreate
- name: tmp
  emptyDir: {}
{{- end }}

{{- define "ztun.cniVolumes" -}}
- name: cni-conf
  hostPath:
    path: {{ .Values.agent.cni.confDir }}
    type: DirectoryOrCreate
- name: cni-bin
  hostPath:
    path: {{ .Values.agent.cni.binDir }}
    type: DirectoryOrCreate
{{- end }}

{{/* A value as text; a large number without an exponent, which Helm would write. */}}
{{- define "ztun.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . | toString | quote }}{{ else }}{{ . | toString | quote }}{{ end }}
{{- end }}
