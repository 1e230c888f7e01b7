"""What a run says and heeds: records, progress, health, alarms, signals, stalls."""
