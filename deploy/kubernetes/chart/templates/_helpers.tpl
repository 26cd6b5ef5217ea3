{{- define "twistdist.name" -}}
{{- if contains "twistdist" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-twistdist" (.Release.Name | trunc 30 | trimSuffix "-") }}{{ end -}}
{{- end }}

{{- define "twistdist.labels" -}}
app.kubernetes.io/name: twistdist
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "twistdist.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "twistdist.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.user }}
runAsGroup: {{ .Values.user }}
fsGroup: {{ .Values.user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "twistdist.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "twistdist.env" -}}
- {name: HOME, value: /tmp}
- {name: PYTHONUNBUFFERED, value: "1"}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: POD_IP
  valueFrom:
    fieldRef: {fieldPath: status.podIP}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "twistdist.files" -}}
# Root owns the files of a Secret; the group of the pod may read them.
name: files
secret:
  secretName: {{ .Values.secretName }}
  defaultMode: 0440
  items:
    - {key: secret, path: secret}
    - {key: ca.pem, path: ca.pem}
    - {key: cert.pem, path: cert.pem}
    - {key: key.pem, path: key.pem}
{{- end }}
