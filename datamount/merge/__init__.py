"""Three-way merge of a student's work with a new version of the course; nothing of either side is dropped unnamed."""

from datamount.merge.trees import FileChange, Merged, MergeReport, Node, Other, Read, Step, Tree, beside, merge_trees

__all__ = ["FileChange", "MergeReport", "Merged", "Node", "Other", "Read", "Step", "Tree", "beside", "merge_trees"]
