"""Study folders on disk, and their MLflow mirror.

Everything that reads or writes the files of a study belongs here; result.json is the authoritative record of a run.
Only modules named `mlflow_` import MLflow. How a run is trained, chosen or scored does not belong here.
"""
